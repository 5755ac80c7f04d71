"""Certificates by openssl, and a cluster that uses TLS."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.integration.support import wait_until
from tests.postgresql.cluster import USER, running_cluster, user_of_servers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.postgresql.cluster import Cluster


class Authority:
    """A certificate authority in a folder: ``NAME.pem`` is a certificate, ``NAME.key`` its key."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self.name = name
        self.file = folder / f"{name}.pem"
        self._openssl("-days", "10", "-subj", f"/CN={name}", *self._files(name))

    def issue(self, name: str, subject: str, *names: str, days: int = 10) -> Path:
        """The certificate for this subject and these host names; returns its file. ``days`` below 0: it has expired."""
        others = ["-addext", f"subjectAltName={','.join(f'DNS:{each}' for each in names)}"] if names else []
        if days < 0:
            return self._issue_expired(name, subject)
        signed = ["-CA", str(self.file), "-CAkey", str(self.folder / f"{self.name}.key")]
        self._openssl("-days", str(days), "-subj", f"/CN={subject}", *others, *signed, *self._files(name))
        return self.folder / f"{name}.pem"

    def _issue_expired(self, name: str, subject: str) -> Path:
        """``openssl req`` refuses days below 0, ``openssl x509`` does not."""
        request, key = self.folder / f"{name}.csr", self.folder / f"{name}.key"
        certificate, signer = self.folder / f"{name}.pem", self.folder / f"{self.name}.key"
        self._run("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={subject}", "-keyout", str(key),
                  "-out", str(request))  # fmt: skip
        self._run("x509", "-req", "-in", str(request), "-CA", str(self.file), "-CAkey", str(signer), "-days", "-1",
                  "-set_serial", "2", "-out", str(certificate))  # fmt: skip
        return certificate

    def _files(self, name: str) -> list[str]:
        return ["-keyout", str(self.folder / f"{name}.key"), "-out", str(self.folder / f"{name}.pem")]

    def _openssl(self, *arguments: str) -> None:
        self._run("req", "-x509", "-newkey", "rsa:2048", "-nodes", *arguments)

    @staticmethod
    def _run(*arguments: str) -> None:
        done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr


class TlsCluster:
    """A cluster to which TCP connections need TLS. ``use`` chooses the certificate of the server."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self._folder = folder  # where the server reads its files, which belong to its user

    def use(self, certificate: Path) -> None:
        """From now on the server shows this certificate."""
        self._install(certificate, "server.pem")
        self._install(certificate.with_suffix(".key"), "server.key")
        self.reload()

    def trust(self, authority: Path) -> None:
        """Client certificates of this authority are accepted."""
        self._install(authority, "clients.pem")
        self.cluster.execute(f"ALTER SYSTEM SET ssl_ca_file = '{self._folder / 'clients.pem'}'")
        self.reload()

    def allow(self, line: str) -> None:
        """The only line of pg_hba.conf about TCP connections."""
        (self.cluster.data / "pg_hba.conf").write_text(f"local all all trust\n{line}\n")
        self.reload()

    def reload(self) -> None:
        """New connections are made with the new settings: the one that asks is waited for."""
        before = self._loaded()
        self.cluster.execute("SELECT pg_reload_conf()")
        wait_until(lambda: self._loaded() != before, "the server has read its settings again")

    def _loaded(self) -> object:
        return self.cluster.execute("SELECT pg_conf_load_time()")

    def _install(self, source: Path, name: str) -> None:
        install(source, self._folder / name)


def install(source: Path, target: Path) -> None:
    """Copy a file that only the user of the server can read."""
    target.unlink(missing_ok=True)
    shutil.copy(source, target)
    target.chmod(0o600)
    user = user_of_servers()
    if os.geteuid() == 0 and user is not None:
        os.chown(target, user.pw_uid, user.pw_gid)


@contextmanager
def running_tls_cluster(certificate: Path) -> Iterator[TlsCluster]:
    """A cluster for a block, which shows this certificate and asks for a password."""
    folder = Path(tempfile.mkdtemp(prefix="tls-"))
    folder.chmod(0o755)
    try:
        install(certificate, folder / "server.pem")
        install(certificate.with_suffix(".key"), folder / "server.key")
        files = {"ssl_cert_file": folder / "server.pem", "ssl_key_file": folder / "server.key"}
        with running_cluster(ssl="on", **files) as cluster:
            found = TlsCluster(cluster, folder)
            found.allow(f"hostssl all {USER} 127.0.0.1/32 scram-sha-256")
            yield found
    finally:
        shutil.rmtree(folder)
