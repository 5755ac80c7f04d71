"""Who sends a request, and what they may do.

Builds run on the same host, so a loopback address is no proof of anything. Without a login a visitor sees counts and
states. ``VIEW`` adds deployments and their details, ``ACT`` the values of parameters and every action.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from itsdangerous import BadSignature, TimestampSigner

from agent.model.terminal import printable

if TYPE_CHECKING:
    from starlette.requests import Request

    from agent.config.credentials import Token
    from agent.config.settings import WebSettings
    from agent.model.times import Clock

COOKIE = "hivel_agent_session"
# The header with the secret of a trusted proxy.
PROXY_SECRET = "X-Hivel-Agent-Proxy-Secret"  # noqa: S105 - the name of a header
SESSION_S = 12 * 3600
# Failed logins from one address in a minute, and from all addresses.
MOST_FAILURES = 5
MOST_FAILURES_OF_ALL = 100
_MOST_ADDRESSES = 1000
_MINUTE_S = 60.0
# A password of a person has less entropy than a random key, so deriving the key of the cookies from it must be slow.
_SCRYPT_COST = 2**14
_HASHED = "scrypt:"
_LONGEST_NAME = 100


class Role(enum.IntEnum):
    """Each role includes the ones before it."""

    NOBODY = 0
    VIEW = 1
    ACT = 2


@dataclass(frozen=True)
class Visitor:
    """``name`` is for the log and the history of a deployment. ``bearer``: no browser sent the request by itself."""

    role: Role
    name: str
    bearer: bool = False


NOBODY = Visitor(Role.NOBODY, "")


class TooManyAttemptsError(Exception):
    """Too many failed logins; the message is for users."""


class Access:
    """The passwords, tokens and sessions of one configuration."""

    def __init__(self, settings: WebSettings, clock: Clock) -> None:
        self._tokens = [(Role.ACT, settings.token), (Role.VIEW, settings.view_token)]
        self._proxy = settings.proxy
        self._passwords = [
            (role, token, _signer(token))
            for role, token in ((Role.ACT, settings.password), (Role.VIEW, settings.view_password))
            if token is not None and token.problem is None
        ]
        self._attempts = _Attempts(clock)

    @property
    def can_log_in(self) -> bool:
        """Whether a password is configured."""
        return bool(self._passwords)

    def visitor(self, request: Request) -> Visitor:
        """Who sent this request: by a bearer token, by a trusted proxy, or by a session."""
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            roles = [role for role, token in self._tokens if _is(token, given)]
            return Visitor(roles[0], "API", bearer=True) if roles else NOBODY
        if (user := self._user_of_proxy(request)) is not None:
            return user
        return self._of_session(request.cookies.get(COOKIE, ""))

    def _user_of_proxy(self, request: Request) -> Visitor | None:
        if self._proxy is None or not _is(self._proxy.secret, request.headers.get(PROXY_SECRET, "")):
            return None
        name = printable(request.headers.get(self._proxy.user_header, ""))[:_LONGEST_NAME]
        if not name:
            return None
        return Visitor(Role.ACT if name in self._proxy.operators else Role.VIEW, name)

    def _of_session(self, cookie: str) -> Visitor:
        for role, _, signer in self._passwords:
            try:
                name = signer.unsign(cookie, max_age=SESSION_S).decode()
            except (BadSignature, UnicodeDecodeError):
                continue
            return Visitor(role, name)
        return NOBODY

    def log_in(self, address: str, name: str, password: str) -> str | None:
        """The value of a session cookie; None: the password is wrong. This takes 50 ms of CPU for a hashed password.

        Raises :class:`TooManyAttemptsError`.
        """
        self._attempts.refuse_too_many(address)
        shown = printable(name.strip())[:_LONGEST_NAME]
        for _, token, signer in self._passwords:
            if _is_password(token, password):
                return signer.sign(shown or "operator").decode()
        self._attempts.note_failure(address)
        return None


class _Attempts:
    """Failed logins of the last minute."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._by_address: OrderedDict[str, deque[float]] = OrderedDict()
        self._all: deque[float] = deque(maxlen=MOST_FAILURES_OF_ALL)

    def refuse_too_many(self, address: str) -> None:
        since = self._clock.monotonic() - _MINUTE_S
        of_address = [at for at in self._by_address.get(address, ()) if at > since]
        of_all = [at for at in self._all if at > since]
        if len(of_address) >= MOST_FAILURES or len(of_all) >= MOST_FAILURES_OF_ALL:
            raise TooManyAttemptsError("too many failed logins; try again in a minute")

    def note_failure(self, address: str) -> None:
        now = self._clock.monotonic()
        self._all.append(now)
        self._by_address.setdefault(address, deque(maxlen=MOST_FAILURES)).append(now)
        self._by_address.move_to_end(address)
        while len(self._by_address) > _MOST_ADDRESSES:
            self._by_address.popitem(last=False)


def hashed(password: str, salt: bytes) -> str:
    """The form of a password that can stand in its file instead of the password itself."""
    return f"{_HASHED}{salt.hex()}:{_scrypt(password, salt).hex()}"


def _signer(token: Token) -> TimestampSigner:
    """The key depends on nothing but the password: a restart and a second agent accept the same sessions."""
    return TimestampSigner(_scrypt(token.reveal(), b"hivel-agent session"), salt="session")


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
