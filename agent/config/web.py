"""The settings of ``[web]``, checked while they are read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from agent.config.paths import WEB_PASSWORD
from agent.config.settings import Address, ProxySettings, SocketFile, WebSettings

if TYPE_CHECKING:
    from agent.config import tables
    from agent.config.values import Values

_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)*")
# With or without a port. An IPv6 address may have brackets, and needs them before a port.
_HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|[0-9A-Fa-f:.]+|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
_HEADER = re.compile(r"[A-Za-z0-9-]+")


def web(check: Values, raw: tables.Web) -> WebSettings | None:
    """The settings of the pages; None: there are none."""
    address = check.address_or_socket("web.listen", raw.listen)
    prefix = (raw.prefix or "").rstrip("/")
    if not _PREFIX.fullmatch(prefix):
        check.note("web.prefix", f"{raw.prefix!r} is not a path; write it like /hivel")
    for i, host in enumerate(raw.hosts):
        if not _HOST.fullmatch(host):
            check.note(f"web.hosts[{i}]", f"{host!r} is not a host name; write it without scheme and path")
    settings = WebSettings(
        address=address or Address("", 0),
        prefix=prefix,
        hosts=tuple(host.lower() for host in raw.hosts),
        password=check.web_secret("web.password_file", raw.password_file, "web-password", WEB_PASSWORD),
        view_password=check.web_secret("web.view_password_file", raw.view_password_file, "web-view-password"),
        token=check.web_secret("web.token_file", raw.token_file, "web-token"),
        view_token=check.web_secret("web.view_token_file", raw.view_token_file, "web-view-token"),
        proxy=None if raw.proxy is None else _proxy(check, raw.proxy, over_socket=isinstance(address, SocketFile)),
    )
    return None if address is None else settings


def _proxy(check: Values, raw: tables.Proxy, *, over_socket: bool) -> ProxySettings | None:
    if not _HEADER.fullmatch(raw.user_header):
        check.note("web.proxy.user_header", f"{raw.user_header!r} is not the name of a header")
    secret = check.web_secret("web.proxy.secret_file", raw.secret_file, "web-proxy-secret")
    if secret is None and not over_socket:
        check.note(
            "web.proxy.secret_file",
            "no secret: set a file here, or systemd's credential web-proxy-secret, or let [web] listen at a Unix "
            f"socket such as unix:/run/hivel-agent/web.sock; otherwise any client could send {raw.user_header}",
        )
        return None
    return ProxySettings(raw.user_header, secret, frozenset(raw.operators))
