"""What a TLS error means, and what to change in the configuration."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# OpenSSL's numbers for certificate errors (x509_vfy.h).
_EXPIRED = (9, 10)
_ANOTHER_NAME = (62, 64)
# OpenSSL's reasons if the first bytes of the answer are not TLS.
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")


def advice(error: BaseException, table: str) -> str | None:
    """What to do about a TLS error in this exception or its causes; None if there is none.

    ``table``: the configuration table of the server, for example ``[hivel]``.
    """
    for each in _chain(error):  # aiohttp's exceptions inherit from these types but lack their attributes
        if isinstance(each, ssl.SSLCertVerificationError) and hasattr(each, "verify_code"):
            return _about_certificate(each.verify_code, table)
        if isinstance(each, ssl.SSLError) and hasattr(each, "reason"):
            return _about_handshake(each, table)
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The exception and its causes. aiohttp keeps the TLS error in an attribute."""
    while error is not None:
        yield error
        for attribute in ("os_error", "certificate_error"):
            if isinstance(inner := getattr(error, attribute, None), BaseException):
                yield inner
        error = error.__cause__ or error.__context__


def _about_certificate(code: int, table: str) -> str:
    if code in _ANOTHER_NAME:
        return f"the certificate is for another host name: set {table} url to a host name that the certificate contains"
    if code in _EXPIRED:
        return "the certificate has expired or is not valid yet: renew it, or correct the clock of this machine"
    return (
        f"the certificate of {table} url is not trusted; if your own certificate authority issued it, set {table} "
        "ca_file to the certificate of that authority"
    )


def _about_handshake(error: ssl.SSLError, table: str) -> str | None:
    reason = error.reason or ""
    if reason in _NO_TLS:
        return f"this port does not use TLS: write http:// instead of https:// in {table} url, or use the port for TLS"
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
        return f"the server may require a client certificate: set {table} client_certificate and client_key"
    return None
