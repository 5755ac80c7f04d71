"""Which PostgreSQL server has the outbox, and how a connection to it is secured."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

if TYPE_CHECKING:
    from agent.config.credentials import Token

# libpq tries several hosts one after another; each may take so long.
CONNECT_TIMEOUT_S = 5
# A server that has vanished without closing its connections is noticed after about this time.
_KEEPALIVE = {"keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3", "tcp_user_timeout": "20000"}
# Where distributions keep the authorities: Debian, Red Hat, SUSE.
BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")


@dataclass(frozen=True)
class Server:
    """The server of ``[outbox] url``. The URL contains no password: see ``password``."""

    url: str
    password: Token | None = field(default=None, repr=False)
    ca_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None

    @property
    def name(self) -> str:
        """Hosts and database, for messages."""
        parts = urlsplit(self.url)
        hosts = parts.netloc.rpartition("@")[2] or dict(parse_qsl(parts.query)).get("host", "localhost")
        return f"postgresql://{unquote(hosts)}{unquote(parts.path)}"

    def parameters(self) -> dict[str, str]:
        """The parameters of a connection, as libpq names them, in addition to the URL, which overrides them."""
        given = dict(parse_qsl(urlsplit(self.url).query))
        key = self.client_key or self.client_certificate
        files = {"sslrootcert": self.ca_file, "sslcert": self.client_certificate, "sslkey": key}
        found = {
            "application_name": "hivel-agent",
            "client_encoding": "UTF8",
            "connect_timeout": str(CONNECT_TIMEOUT_S),
            **_KEEPALIVE,
            **{name: str(path) for name, path in files.items() if path is not None},
        }
        hosts = hosts_of(self.url)
        if not all(map(is_local, hosts)) or self.ca_file is not None:
            found["sslmode"] = "verify-full"
            found.setdefault("sslrootcert", _system_authorities())
        if len(hosts) > 1:  # the others may be standbys
            found["target_session_attrs"] = "read-write"
        if self.password is not None:
            found["password"] = self.password.reveal()
        return {name: value for name, value in found.items() if name not in given}


def _system_authorities() -> str:
    """The file with the system's authorities; "system" if it is not found.

    "system" alone is not enough: psycopg's wheel has an OpenSSL of its own, whose folder does not exist.
    """
    usual = ssl.get_default_verify_paths().cafile
    return next((each for each in (usual, *BUNDLES) if each and Path(each).is_file()), "system")


def hosts_of(url: str) -> list[str]:
    """The hosts of the URL; a folder stands for a Unix socket in it."""
    parts = urlsplit(url)
    listed = parts.netloc.rpartition("@")[2] or dict(parse_qsl(parts.query)).get("host", "")
    return [_without_port(unquote(each)) for each in listed.split(",")]


def is_local(host: str) -> bool:
    """Whether a connection to this host does not leave this machine."""
    if not host or host == "localhost" or host.startswith(("/", "@")):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host if host.startswith("/") or host.count(":") > 1 else host.partition(":")[0]
