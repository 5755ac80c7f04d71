"""Sends a report to an agent's intake: ``emit`` with ``--send``. Only the standard library, and loaded only to send.

Redirects are not followed, because the token would be sent to another address.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import time
from dataclasses import dataclass
from traceback import clear_frames
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agent.config.credentials import Token, TokenError
from agent.config.proxies import Proxies, ProxyError
from agent.config.settings import USER_AGENT, Address
from agent.model.secrets import know, redact
from agent.model.times import parse_retry_after

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from urllib.parse import SplitResult

    from agent.config.proxies import Proxy

TOKEN = "HIVEL_TOKEN"  # noqa: S105 - the name of a variable
PATH = "/v1/events"
# Attempts, and the pause before the second one, which doubles. The time limit of `emit` can end them earlier.
TRIES = 5
FIRST_PAUSE_S = 1.0
# Time limit of one attempt, so that a connection that hangs leaves time for another one.
ATTEMPT_S = 10.0
_MOST_BYTES = 64 * 1024
_SHOWN = 300
_AGAIN = (408, 425, 429)
_HINTS = {
    401: f"the token in {TOKEN} is missing or wrong",
    403: "the team of this token may not report this",
    404: "there is no intake at this address",
    405: "there is no intake at this address",
}


class SendError(Exception):
    """The report was not accepted; the message says why and what to do. It contains no secret."""


class _AgainError(Exception):
    """A temporary failure. ``after_s``: the pause that the server asked for."""

    def __init__(self, words: str, after_s: float = 0.0) -> None:
        super().__init__(words)
        self.after_s = after_s


@dataclass(frozen=True)
class Waiting:
    """The clock of the attempts; tests replace it."""

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class IntakeAt:
    """The intake at one address, with the token from the environment."""

    def __init__(self, url: str, environment: Mapping[str, str] | None = None, waiting: Waiting | None = None) -> None:
        """Raises :class:`SendError` if the address, the token or the proxy cannot be used."""
        environment = os.environ if environment is None else environment
        base = base_address("--send", url, TOKEN)
        self._parts = base._replace(path=base.path.removesuffix(PATH) + PATH)
        self._token = _token(environment, required=not _is_loopback(self._parts))
        self._proxy = None if self._parts.scheme == "http" else _proxy(self._parts, environment)
        self._waiting = waiting or Waiting()

    def send(self, report: dict[str, object], timeout_s: float) -> str:
        """Send the report, with a few retries within ``timeout_s``; returns what the intake answered, for people.

        Raises :class:`SendError`.
        """
        body = json.dumps(report, ensure_ascii=False).encode("utf-8", "replace")
        started, pause_s = self._waiting.monotonic(), FIRST_PAUSE_S
        for attempt in range(1, TRIES + 1):
            left_s = timeout_s - (self._waiting.monotonic() - started)
            try:
                return self._attempt(body, min(ATTEMPT_S, left_s))
            except _AgainError as error:
                wait_s = max(pause_s, error.after_s)
                left_s = timeout_s - (self._waiting.monotonic() - started)
                if attempt == TRIES or wait_s >= left_s:
                    times = "1 attempt" if attempt == 1 else f"{attempt} attempts"
                    raise SendError(f"{self._place}: {error} ({times})") from None
            self._waiting.sleep(wait_s)
            pause_s *= 2
        raise AssertionError("unreachable")  # pragma: no cover - the last attempt returns or raises

    @property
    def _place(self) -> str:
        return f"{self._parts.scheme}://{self._parts.netloc}"

    def _attempt(self, body: bytes, timeout_s: float) -> str:
        connection = self._connection(timeout_s)
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": USER_AGENT}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token.reveal()}"
        try:
            connection.request("POST", self._parts.path, body, headers)
            with connection.getresponse() as response:
                return self._accepted(response, response.read(_MOST_BYTES).decode("utf-8", "replace"))
        except ssl.SSLCertVerificationError as error:
            advice = (
                "if your own certificate authority issued it, set SSL_CERT_FILE to the certificate of that authority"
            )
            words = f"the certificate is not trusted: {error.verify_message}; {advice}"
            raise SendError(f"{self._place}: {words}") from None
        except TimeoutError:
            raise _AgainError(f"no answer within {timeout_s:.3g} s") from None
        except (OSError, http.client.HTTPException) as error:
            # Before Python 3.11.4 a proxy's refusal stays open in a frame of the error, with its socket.
            clear_frames(error.__traceback__)
            raise _AgainError(f"no connection: {_words(error)}") from None
        finally:
            connection.close()

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=timeout_s)
        context = ssl.create_default_context()
        if self._proxy is None:
            return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)
        proxy = urlsplit(self._proxy.url)
        connection = http.client.HTTPSConnection(proxy.hostname or "", proxy.port, timeout=timeout_s, context=context)
        authorization = self._proxy.authorization
        connection.set_tunnel(host, port, {"Proxy-Authorization": authorization} if authorization else {})
        return connection

    def _accepted(self, response: http.client.HTTPResponse, body: str) -> str:
        """The answer of the intake, for people. Raises :class:`SendError` or :class:`_AgainError` for any other."""
        status, answer = response.status, _json(body)
        if status == 202 and isinstance(answer.get("deployment_id"), str):
            return f"sent to {self._place}: {answer['deployment_id']} ({answer.get('state')})"
        said = redact(str(answer.get("error") or ""))[:_SHOWN]
        words = f"HTTP {status}" + (f": {said}" if said else "")
        if status in _AGAIN or status >= 500:
            after_ms = parse_retry_after(response.getheader("Retry-After"), time.time_ns() // 1_000_000)
            raise _AgainError(words, (after_ms or 0) / 1000)
        if 300 <= status < 400:
            target = redact(response.getheader("Location") or "")[:_SHOWN]
            words += f": the server redirects to {target}; redirects are not followed, so set the final address"
        elif 200 <= status < 300:
            words += ": this is not the answer of an agent's intake; check the address"
        elif status in _HINTS:
            words += f"; {_HINTS[status]}"
        raise SendError(f"{self._place}: {words}")


def base_address(option: str, url: str, secret: str) -> SplitResult:
    """The address of a server that gets a token: https, or http on this machine. Its path does not end with a slash.

    ``option`` and ``secret`` (the variable of the token) are named in messages. Raises :class:`SendError`.
    """
    text = url.strip()
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if "@" in text:  # checked first, because the messages below repeat the address
        raise SendError(f"{option}: the address contains credentials, or an @; put the token into {secret}")
    if not usable or not text.isascii() or not text.isprintable() or " " in text:
        raise SendError(f"{option}: {text!r:.100} is not an address; write it like https://host.example.com")
    if parts.query or parts.fragment:
        raise SendError(f"{option}: {text!r:.100} must end with the path; remove ? or # and the text after it")
    if parts.scheme == "http" and not _is_loopback(parts):
        raise SendError(f"{option}: {text!r:.100} would send the token without encryption; use https")
    return parts._replace(path=parts.path.rstrip("/"))


def _is_loopback(parts: SplitResult) -> bool:
    return Address(parts.hostname or "", 0).is_loopback


def _token(environment: Mapping[str, str], *, required: bool) -> Token | None:
    """The token; None if the variable is not set and the intake on this machine may not require one."""
    text = environment.get(TOKEN, "").strip()
    if not text:  # a secret that a CI system does not have is an empty variable
        if required:
            raise SendError(f"the environment variable {TOKEN} is empty or not set; set it to the token of the intake")
        return None
    try:
        return Token.checked(text, f"the environment variable {TOKEN}")
    except TokenError as error:
        raise SendError(str(error)) from None


def _proxy(parts: SplitResult, environment: Mapping[str, str]) -> Proxy | None:
    try:
        proxy = Proxies(environment).route(parts.geturl()).proxy
    except ProxyError as error:
        raise SendError(str(error)) from None
    if proxy is not None and proxy.url.startswith("https:"):
        raise SendError(f"the proxy {proxy.url} uses TLS, which emit does not support; use an http:// proxy")
    if proxy is not None and proxy.authorization:
        know(proxy.authorization)
    return proxy


def _json(body: str) -> dict[str, object]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _words(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return redact(str(text))[:_SHOWN]
