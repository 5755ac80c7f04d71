"""Sends a notification to the standard input of a command or as a POST to a URL, with limits of time and size."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import httpx

from agent.config.connection import FAILURES, open_client, raw_body, route_to
from agent.config.credentials import TokenError, know_url
from agent.config.file import ConfigError
from agent.config.settings import USER_AGENT
from agent.delivery.connection import failure
from agent.model.secrets import redact

if TYPE_CHECKING:
    from asyncio.subprocess import Process

    from agent.config.settings import NotifySettings

# How many bytes of a command's standard error or of an answer are read, and how many characters an error message shows.
_READ_BYTES = 4096
_SHOWN = 200
# The environment variables that a command gets. The agent's other variables can contain tokens.
_ENVIRONMENT = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "SSL_CERT_FILE",
                "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
                "http_proxy", "https_proxy", "all_proxy", "no_proxy")  # fmt: skip


class SendError(Exception):
    """A notification was not accepted. The message says why, and does not contain the URL."""


async def send(settings: NotifySettings, body: bytes) -> None:
    """Send one notification. Raises :class:`SendError`."""
    if settings.command:
        await _run(settings.command, body, settings.timeout_ms / 1000)
    else:
        await _post(settings, body, settings.timeout_ms / 1000)


# ---- a command


async def _run(command: tuple[str, ...], body: bytes, timeout_s: float) -> None:
    words = _Words()
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=words.writer,
            start_new_session=True,  # its own process group, so that its children are killed too
            cwd="/",
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        )
    except (OSError, ValueError) as error:
        words.close()
        raise SendError(f"cannot run {command[0]}: {getattr(error, 'strerror', None) or error}") from error
    words.listen()
    try:
        async with asyncio.timeout(timeout_s):
            await _feed(process, body)
            code = await process.wait()
    except TimeoutError:
        raise SendError(f"{command[0]} did not finish within {timeout_s:g} s and was killed") from None
    finally:
        await _kill(process)
        words.close()
    if code:
        how = f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"
        raise SendError(f"{command[0]} {how}{_shown(bytes(words.kept))}")


async def _feed(process: Process, body: bytes) -> None:
    if process.stdin is None:
        return
    with suppress(BrokenPipeError, ConnectionResetError):  # the command may ignore its input
        process.stdin.write(body)
        await process.stdin.drain()
        process.stdin.close()


class _Words:
    """Reads a command's standard error and keeps its beginning. Without a reader the command could block.

    It uses its own pipe, because asyncio's pipe ends only when every process that inherited it has ended.
    """

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)
        self.kept = bytearray()
        self._loop: asyncio.AbstractEventLoop | None = None

    def listen(self) -> None:
        """Start reading. The command has its end of the pipe by now."""
        os.close(self.writer)
        self.writer = -1
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._reader, self._read)

    def _read(self) -> bool:
        """Read once; True if there was data."""
        with suppress(BlockingIOError):
            piece = os.read(self._reader, _READ_BYTES)
            self.kept += piece[: _READ_BYTES - len(self.kept)]
            if not piece and self._loop is not None:
                self._loop.remove_reader(self._reader)
            return bool(piece)
        return False

    def close(self) -> None:
        """Read the data that has arrived, without waiting for more, and close the pipe."""
        if self._loop is not None:
            while len(self.kept) < _READ_BYTES and self._read():
                pass
            self._loop.remove_reader(self._reader)
        if self.writer >= 0:
            os.close(self.writer)
        os.close(self._reader)


async def _kill(process: Process) -> None:
    """Kill the process group if the command still runs. Afterwards its number may belong to another group."""
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.shield(process.wait())


# ---- a URL


async def _post(settings: NotifySettings, body: bytes, timeout_s: float) -> None:
    if settings.url is None:
        raise SendError("[notify] has neither a command nor a URL")
    await asyncio.to_thread(settings.url.reload)
    try:
        url = settings.url.reveal()
    except TokenError as error:
        raise SendError(str(error)) from error
    know_url(url)
    if (problem := url_problem(url)) is not None:
        raise SendError(problem)
    headers = {"User-Agent": USER_AGENT, "Content-Type": "application/json", "Accept-Encoding": "identity"}
    try:
        route = route_to(url)
    except ConfigError as error:  # the proxy settings
        raise SendError(str(error)) from error
    try:
        async with asyncio.timeout(timeout_s), open_client(settings.tls, route, at_once=1) as client:
            request = httpx.Request("POST", url, headers=headers, content=body)
            response = await client.send(request, stream=True)
            try:
                said = b"" if response.is_success else await raw_body(response, _READ_BYTES)
            finally:
                await response.aclose()
    except TimeoutError:
        raise SendError(f"no answer within {timeout_s:g} s") from None
    except FAILURES as error:
        raise SendError(redact(failure(error, timeout_s, route, table="[notify]").body)) from error
    if not response.is_success:
        hint = "; redirects are not followed" if response.is_redirect else ""
        raise SendError(f"the server answered {response.status_code}{hint}{_shown(said)}")


def url_problem(url: str) -> str | None:
    """Why this URL cannot be used, without repeating it, because it is a secret; None: it can."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        return "[notify]: the configured URL is not valid; write it like https://host/path"
    if parts.scheme not in ("http", "https") or not parts.host:
        return "[notify]: the URL must start with https:// or http:// and a host name"
    return None


def _shown(said: bytes) -> str:
    words = redact(" ".join(said.decode("utf-8", "replace").split()))[:_SHOWN]
    return f": {words}" if words else ""
