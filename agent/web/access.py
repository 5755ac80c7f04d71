"""Who sends a request, and what they may do.

Builds run on the same host, so a loopback address is no proof of anything. Without a login a visitor sees counts and
states. ``VIEW`` adds deployments and their details, ``ACT`` the values of parameters and every action.
"""

from __future__ import annotations

import asyncio
import enum
import hashlib
import hmac
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from itsdangerous import BadSignature, Signer, TimestampSigner
from starlette.concurrency import run_in_threadpool

from agent.config.settings import SocketFile
from agent.model.terminal import printable
from agent.web.attempts import Attempts, Guesser

if TYPE_CHECKING:
    from starlette.requests import Request

    from agent.config.credentials import Token
    from agent.config.settings import WebSettings
    from agent.model.times import Clock

COOKIE = "hivel_agent_session"
# Of a browser that somebody who may act has logged in with: see :mod:`agent.web.attempts`.
BROWSER_COOKIE = "hivel_agent_browser"
# The header with the secret of a trusted proxy.
PROXY_SECRET = "X-Hivel-Agent-Proxy-Secret"  # noqa: S105 - the name of a header
SESSION_S = 12 * 3600
BROWSER_S = 400 * 86_400
# A password of a person has less entropy than a random key, so deriving the key of the cookies from it must be slow.
_SCRYPT_COST = 2**14
_HASHED = "scrypt:"
_LONGEST_NAME = 100
_LONGEST_ADDRESS = 50


class Role(enum.IntEnum):
    """Each role includes the ones before it."""

    NOBODY = 0
    VIEW = 1
    ACT = 2


@dataclass(frozen=True)
class Visitor:
    """``name`` is for the log and the history of a deployment. ``has_session``: a logout would end it."""

    role: Role
    name: str
    has_session: bool = False


NOBODY = Visitor(Role.NOBODY, "")


@dataclass(frozen=True)
class Login:
    """The values of the cookies after a login. ``browser``: None if this password does not make a browser known."""

    session: str
    browser: str | None


class _Password:
    """A password, and what is signed with keys derived from it.

    The keys depend on nothing but the password: a restart and a second agent accept the same sessions. They differ by
    salt: neither cookie can be used as the other.
    """

    def __init__(self, role: Role, token: Token) -> None:
        key = _scrypt(token.reveal(), b"hivel-agent session")
        self.role = role
        self.token = token
        self.sessions = TimestampSigner(key, salt="session")
        self.browsers = Signer(key, salt="browser")


class Access:
    """The passwords, tokens and sessions of one configuration."""

    def __init__(self, settings: WebSettings, clock: Clock) -> None:
        self._tokens = [(Role.ACT, settings.token), (Role.VIEW, settings.view_token)]
        self._proxy = settings.proxy
        self._over_socket = isinstance(settings.address, SocketFile)
        self._passwords = [
            _Password(role, token)
            for role, token in ((Role.ACT, settings.password), (Role.VIEW, settings.view_password))
            if token is not None and token.problem is None
        ]
        self._attempts = Attempts(clock)
        # A hashed password takes 16 MB for each comparison, and guesses at the same time must not escape the count.
        self._one_at_a_time = asyncio.Lock()

    @property
    def can_log_in(self) -> bool:
        """Whether a password is configured."""
        return bool(self._passwords)

    def visitor(self, request: Request) -> Visitor:
        """Who sent this request: by a bearer token, by a trusted proxy, or by a session."""
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            roles = [role for role, token in self._tokens if _is(token, given)]
            return Visitor(roles[0], "API") if roles else NOBODY
        if (user := self._user_of_proxy(request)) is not None:
            return user
        return self._of_session(request.cookies.get(COOKIE, ""))

    def address(self, request: Request) -> str:
        """The address of the client, for the log and the count of failed logins."""
        own = request.client.host if request.client else "unix socket"
        if not self._is_proxy(request):
            return own
        # Each proxy adds the address of its client at the end.
        forwarded = ",".join(request.headers.getlist("X-Forwarded-For")).rpartition(",")[2]
        return printable(forwarded.strip())[:_LONGEST_ADDRESS] or own

    def _is_proxy(self, request: Request) -> bool:
        """Whether the reverse proxy sent this request. A Unix socket is open only to its group, a port to everybody."""
        secret = None if self._proxy is None else self._proxy.secret
        return self._over_socket if secret is None else _is(secret, _only(request, PROXY_SECRET))

    def _user_of_proxy(self, request: Request) -> Visitor | None:
        if self._proxy is None or not self._is_proxy(request):
            return None
        name = printable(_only(request, self._proxy.user_header))[:_LONGEST_NAME]
        if not name:
            return None
        return Visitor(Role.ACT if name in self._proxy.operators else Role.VIEW, name)

    def _of_session(self, cookie: str) -> Visitor:
        for each in self._passwords:
            try:
                name = each.sessions.unsign(cookie, max_age=SESSION_S).decode()
            except (BadSignature, UnicodeDecodeError):
                continue
            return Visitor(each.role, unquote(name), has_session=True)
        return NOBODY

    # ---- logins

    async def log_in(self, request: Request, name: str, password: str) -> Login | None:
        """None: the password is wrong. This takes 50 ms of CPU for a hashed password.

        Raises :class:`agent.web.attempts.TooManyAttemptsError`.
        """
        browser = self._browser(request.cookies.get(BROWSER_COOKIE, ""))
        guesser = Guesser(self.address(request)) if browser is None else Guesser(browser, known=True)
        async with self._one_at_a_time:
            self._attempts.refuse_too_many(guesser)
            found = await run_in_threadpool(self._with, password)
            if found is None:
                self._attempts.note_failure(guesser)
                return None
        # Percent-encoded: a cookie has no place for the letters of all languages.
        session = found.sessions.sign(quote(printable(name.strip())[:_LONGEST_NAME] or "operator"))
        # Not for those who may view: with a new count for each login they could guess the other password.
        known = found.browsers.sign(browser or secrets.token_urlsafe(9)) if found.role is Role.ACT else None
        return Login(session.decode(), None if known is None else known.decode())

    def _with(self, password: str) -> _Password | None:
        return next((each for each in self._passwords if _is_password(each.token, password)), None)

    def _browser(self, cookie: str) -> str | None:
        """The browser of somebody who may act; None: it is not known."""
        for each in self._passwords:
            with suppress(BadSignature):
                if each.role is Role.ACT:
                    return each.browsers.unsign(cookie).decode("ascii", "replace")
        return None


def hashed(password: str, salt: bytes) -> str:
    """The form of a password that can stand in its file instead of the password itself."""
    return f"{_HASHED}{salt.hex()}:{_scrypt(password, salt).hex()}"


def _scrypt(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode("utf-8", "replace"), salt=salt, n=_SCRYPT_COST, r=8, p=1, dklen=32)


def _is(token: Token | None, given: str) -> bool:
    """Compares in constant time. A token that could not be read matches nothing."""
    if token is None or token.problem is not None:
        return False
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.reveal().encode())


def _is_password(token: Token, given: str) -> bool:
    stored = token.reveal()
    if not stored.startswith(_HASHED):
        return _is(token, given)
    try:
        salt, wanted = (bytes.fromhex(part) for part in stored.removeprefix(_HASHED).split(":"))
    except ValueError:
        return False
    return hmac.compare_digest(_scrypt(given, salt), wanted)


def _only(request: Request, header: str) -> str:
    """The value of a header; empty if it was sent several times: only one of the values is the proxy's own."""
    values = request.headers.getlist(header)
    if len(values) != 1:
        return ""
    try:
        return values[0].encode("latin-1").decode()
    except UnicodeDecodeError:
        return values[0]
