"""The signatures of deliveries: whether a request comes from a platform that knows the secret of the webhook.

All comparisons take the same time for every wrong signature, and the raw body is checked before it is decoded.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from agent.config.settings import Platform

# The prefix of GitLab's signing tokens, as in Standard Webhooks.
SIGNING = "whsec_"
# How old or how far ahead a signed time can be.
TOLERANCE_S = 300


def is_signed(platform: Platform, secrets: Sequence[str], headers: Mapping[str, str], body: bytes, now_ms: int) -> bool:
    """Whether the request has a valid signature with one of the secrets. ``headers``: names in lower case."""
    valid = False
    for secret in secrets:  # all of them: the time must not depend on which one is right
        valid |= _CHECKS[platform](secret, secrets, headers, body, now_ms)
    return valid


def can_be_signed(platform: Platform, secrets: Sequence[str], headers: Mapping[str, str], now_ms: int) -> bool:
    """Whether the signature can be valid, before the body is known. Others need not be read, nor take memory."""
    if platform == "gitlab" and any(each.startswith(SIGNING) for each in secrets):
        return bool(headers.get("webhook-signature"))
    signature = _OVER_BODIES.get(platform)
    return is_signed(platform, secrets, headers, b"", now_ms) if signature is None else bool(headers.get(signature))


def _github(secret: str, _: Sequence[str], headers: Mapping[str, str], body: bytes, __: int) -> bool:
    """``X-Hub-Signature-256: sha256=…``, an HMAC of the body. The older header with SHA-1 does not count."""
    return _same(headers.get("x-hub-signature-256", ""), f"sha256={_hmac(secret.encode(), body).hex()}")


def _gitlab(secret: str, secrets: Sequence[str], headers: Mapping[str, str], body: bytes, now_ms: int) -> bool:
    """A signing token: see https://www.standardwebhooks.com. Otherwise ``X-Gitlab-Token`` is the secret itself.

    With a signing token, requests that only have ``X-Gitlab-Token`` are not valid: anybody could repeat them.
    """
    if any(each.startswith(SIGNING) for each in secrets):
        return secret.startswith(SIGNING) and _standard(secret, headers, body, now_ms)
    return _same(headers.get("x-gitlab-token", ""), secret)


def _standard(secret: str, headers: Mapping[str, str], body: bytes, now_ms: int) -> bool:
    name, moment = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    try:
        key = base64.b64decode(secret.removeprefix(SIGNING), validate=True)
    except binascii.Error:
        return False
    is_recent = moment.isascii() and moment.isdigit() and abs(now_ms / 1000 - int(moment[:15])) <= TOLERANCE_S
    signed = b".".join((name.encode("utf-8", "replace"), moment.encode("utf-8", "replace"), body))
    expected = f"v1,{base64.b64encode(_hmac(key, signed)).decode()}"
    valid = False
    for given in headers.get("webhook-signature", "").split()[:20]:  # several while the token is replaced
        valid |= _same(given, expected)
    return valid and bool(name) and bool(key) and is_recent


def _circleci(secret: str, _: Sequence[str], headers: Mapping[str, str], body: bytes, __: int) -> bool:
    """``circleci-signature: v1=…``, an HMAC of the body. Other versions may follow after a comma."""
    expected = f"v1={_hmac(secret.encode(), body).hex()}"
    valid = False
    for given in headers.get("circleci-signature", "").split(",")[:20]:
        valid |= _same(given.strip(), expected)
    return valid


def _azure(secret: str, _: Sequence[str], headers: Mapping[str, str], __: bytes, ___: int) -> bool:
    """Basic authentication. The secret is the password, or user and password with a colon in between."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    try:
        decoded = base64.b64decode(given.strip(), validate=True).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        decoded = ""
    user, _, password = decoded.partition(":")
    expected = secret if ":" in secret else f"{user}:{secret}"
    return _same(f"{user}:{password}", expected) and scheme.lower() == "basic"


def _bearer(secret: str, _: Sequence[str], headers: Mapping[str, str], __: bytes, ___: int) -> bool:
    """``Authorization: Bearer …``."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    return _same(given.strip(), secret) and scheme.lower() == "bearer"


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, hashlib.sha256)


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode("utf-8", "replace"))


# The headers of signatures over the body. Other platforms send a password or a token.
_OVER_BODIES: dict[Platform, str] = {"github": "x-hub-signature-256", "circleci": "circleci-signature"}

_CHECKS: dict[Platform, Callable[[str, Sequence[str], Mapping[str, str], bytes, int], bool]] = {
    "github": _github,
    "gitlab": _gitlab,
    "circleci": _circleci,
    "azure_devops": _azure,
    "argocd": _bearer,
    "argo_rollouts": _bearer,
}
