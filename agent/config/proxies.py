"""The proxy for a URL, from the usual environment variables, with the same rules for every client.

The libraries differ: ``requests`` compares a name in ``NO_PROXY`` with the end of the host name, even within a label;
``httpx`` supports no networks, and fails on brackets and IPv6 networks. So neither of them reads the environment.
"""

from __future__ import annotations

import ipaddress
import os
import re
from base64 import b64encode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from agent.model.secrets import know

if TYPE_CHECKING:
    from collections.abc import Mapping

_PORTS = {"http": 80, "https": 443}
_SEPARATORS = re.compile(r"[,\s]+")
# A name that the resolver accepts. The standards do not allow `_` in host names, but some have it.
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]|\.(?!\.)){0,252}")
_PORT = re.compile(r"[0-9]{1,5}")
_IN_BRACKETS = re.compile(r"\[([^\[\]]*)\](/[0-9]+)?")
# The maximum length of an invalid value in a message.
_SHOWN = 60

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ProxyError(ValueError):
    """A variable names an unusable proxy. The message contains the variable, but no secrets."""


@dataclass(frozen=True)
class Proxy:
    """A proxy. ``url`` contains no credentials; ``authorization`` is the header with the credentials."""

    url: str
    authorization: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Route:
    """How to reach a URL. ``proxy`` None: directly. ``reason``: the variable that decided it, or None."""

    proxy: Proxy | None
    reason: str | None

    def __str__(self) -> str:
        way = "directly" if self.proxy is None else f"through the proxy {self.proxy.url}"
        return way if self.reason is None else f"{way} ({self.reason})"


@dataclass(frozen=True)
class Bypass:
    """One entry of ``NO_PROXY``. Exactly one of ``domain``, ``network`` and ``everybody`` is set.

    ``port`` and ``scheme`` None: any.
    """

    text: str
    domain: str | None = None
    network: _Network | None = None
    everybody: bool = False
    port: int | None = None
    scheme: str | None = None

    def covers(self, scheme: str, host: str, port: int) -> bool:
        """Whether the entry matches. ``host``: as returned by :func:`_normal`."""
        if self.scheme not in (None, scheme) or self.port not in (None, port):
            return False
        if self.everybody:
            return True
        address = _address_of(host)
        if address is not None:
            return self.network is not None and address.version == self.network.version and address in self.network
        return self.domain is not None and (host == self.domain or host.endswith(f".{self.domain}"))


class Proxies:
    """The proxies of the environment. ``unusable``: entries of ``NO_PROXY`` that are not valid and are ignored."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = os.environ if environment is None else environment
        for variable in ("http_proxy", "https_proxy", "all_proxy"):
            _keep_secret(self._value(variable)[1])
        name, value = self._value("no_proxy")
        self._no_proxy = name
        self._exceptions: list[Bypass] = []
        self.unusable: list[str] = []
        for text in filter(None, _SEPARATORS.split(value)):
            try:
                self._exceptions.append(_exception(text))
            except ValueError:
                self.unusable.append(f"{name}: {_shown(text)} is not a host, domain, address or network; it is ignored")

    def _value(self, name: str) -> tuple[str, str]:
        """The spelling that is used, and its value. Lower case takes precedence, even if it is empty."""
        spelled = name if name in self._environment else name.upper()
        return spelled, self._environment.get(spelled, "").strip()

    def route(self, url: str) -> Route:
        """How to reach this ``http`` or ``https`` URL. Raises :class:`ProxyError`."""
        parts = urlsplit(url)
        name, value = self._value(f"{parts.scheme}_proxy")
        if not value:
            name, value = self._value("all_proxy")
        if not value:
            return Route(None, None)
        host, port = _normal(parts.hostname or ""), parts.port or _PORTS[parts.scheme]
        for each in self._exceptions:
            if each.covers(parts.scheme, host, port):
                return Route(None, f"{self._no_proxy}: {each.text}")
        try:
            return Route(_proxy(value), name)
        except ValueError as error:
            raise ProxyError(f"{name} names a proxy that cannot be used: {error}") from None


def _keep_secret(value: str) -> None:
    """The password in the URL of a proxy, or what is written in its place, even if the proxy cannot be used."""
    credentials, at, _ = value.rpartition("@")
    if not at:
        return
    user, _, password = credentials.rpartition("//")[2].partition(":")
    for secret in (password or user, unquote(password or user, "latin-1"), unquote(password or user)):
        know(secret)


def _proxy(value: str) -> Proxy:
    """Parse ``http://user:password@proxy:3128``. The default scheme is ``http``. Errors do not contain the value."""
    scheme, separator, rest = value.partition("://")
    if not separator:
        scheme, rest = "http", value
    scheme = scheme.lower()
    if scheme.startswith("socks"):
        raise ValueError("SOCKS is not supported; use an HTTP proxy, such as http://proxy.example.com:3128")
    if scheme not in _PORTS:
        raise ValueError("it is not an HTTP proxy; write it like http://proxy.example.com:3128")
    credentials, _, place = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")
    host, port = _host_and_port(place)
    address = f"[{host}]" if ":" in host else host
    return Proxy(f"{scheme}://{address}:{port or _PORTS[scheme]}", _basic(credentials))


def _basic(credentials: str) -> str | None:
    """The ``Proxy-Authorization`` header for ``user:password``, which can be percent-encoded."""
    if not credentials:
        return None
    user, _, password = credentials.encode("utf-8", "surrogateescape").partition(b":")
    return "Basic " + b64encode(unquote_to_bytes(user) + b":" + unquote_to_bytes(password)).decode()


def _host_and_port(text: str) -> tuple[str, int | None]:
    """Host and port of ``host``, ``host:port`` or ``[::1]:port``. Raises :class:`ValueError`."""
    if bracketed := re.fullmatch(r"(\[.*\])(?::(.*))?", text):
        host, port = bracketed[1][1:-1], bracketed[2]
        usable = ":" in host and "%" not in host and _network(host) is not None and "/" not in host
    else:
        host, _, port = text.partition(":")
        usable = _NAME.fullmatch(host) is not None
    if not usable:
        raise ValueError("it has no host; write it like http://proxy.example.com:3128")
    if not port:
        return host, None
    if not _PORT.fullmatch(port) or not 0 < int(port) < 65_536:
        raise ValueError("its port is not a number from 1 to 65535")
    return host, int(port)


def _exception(text: str) -> Bypass:
    """Parse one entry. Raises :class:`ValueError` if it is not valid."""
    scheme, separator, rest = text.rpartition("://")
    if separator:
        if scheme.lower() not in _PORTS:
            raise ValueError(text)
        rest = rest.rstrip("/")
    shown, only = _shown(text), scheme.lower() or None
    if rest == "*":
        return Bypass(shown, everybody=True, scheme=only)
    if (network := _network(rest)) is not None:
        return Bypass(shown, network=network, scheme=only)
    host, port = _host_and_port(rest.removeprefix("*").removeprefix("."))
    if (network := _network(host)) is not None:
        return Bypass(shown, network=network, port=port, scheme=only)
    return Bypass(shown, domain=_normal(host), port=port, scheme=only)


def _network(text: str) -> _Network | None:
    """Parse an address or a network, with brackets around the address or around all of it."""
    if found := _IN_BRACKETS.fullmatch(text):
        text = found[1] + (found[2] or "")
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _normal(host: str) -> str:
    return host.lower().removesuffix(".")


def _shown(text: str) -> str:
    """The text without possible credentials."""
    return repr(text.rpartition("@")[2][:_SHOWN])
