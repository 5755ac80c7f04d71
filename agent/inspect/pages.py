"""What ``check`` says about ``[web]``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.config.paths import WEB_PASSWORD
from agent.config.settings import SocketFile
from agent.inspect.findings import Finding, Level

if TYPE_CHECKING:
    from agent.config.settings import Settings

WEB = "web"


def pages(settings: Settings) -> list[Finding]:
    """Whether users can log in, and whether passwords are sent over a network in clear text."""
    web = settings.web
    if web is None:
        return []
    secrets = [web.password, web.view_password, web.token, web.view_token, web.proxy and web.proxy.secret]
    found = [Finding(Level.WARNING, WEB, each.problem) for each in secrets if each and each.problem is not None]
    if not web.address.is_loopback:
        words = (
            f"the pages listen at {web.address} without TLS: passwords are sent in clear text; listen on loopback "
            "behind a reverse proxy with TLS"
        )
        found.append(Finding(Level.WARNING, WEB, words))
    if isinstance(web.address, SocketFile) and not web.address.path.parent.is_dir():
        words = f"the folder {web.address.path.parent} of [web] listen does not exist: create it with systemd-tmpfiles"
        found.append(Finding(Level.WARNING, WEB, words))
    if not any(secrets) and web.proxy is None:
        words = (
            f"no user can log in to the pages: write a password to {settings.file.parent / WEB_PASSWORD}, or set "
            "[web] password_file"
        )
        found.append(Finding(Level.WARNING, WEB, words))
    return found or [Finding(Level.OK, WEB, f"the pages listen at {web.address}")]
