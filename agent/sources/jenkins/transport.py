"""One HTTP request to a controller, limited in time and size: its answer, or an error that says what happened where."""

from __future__ import annotations

import os
import ssl
import threading
from contextlib import contextmanager, suppress
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, NoReturn

import jenkins
import requests
import requests.cookies
import urllib3

from agent.config.file import ConfigError
from agent.config.proxies import Proxies, ProxyError
from agent.model import tls
from agent.model.rate import RateLimit
from agent.model.secrets import redact
from agent.model.times import describe_duration, parse_retry_after
from agent.model.unpack import PackedError, unpacked
from agent.sources.jenkins.answers import Answer, too_large
from agent.sources.jenkins.backoff import LONGEST_BACKOFF_S
from agent.sources.jenkins.connection import Adapter, Exchange, exchange_under_way
from agent.sources.jenkins.errors import (
    AskedToWaitError,
    BadAnswerError,
    ControllerDownError,
    ForbiddenError,
    JenkinsError,
    NotFoundError,
    PageError,
    StoppedError,
    UnauthorizedError,
    UnreachableError,
)
from agent.sources.jenkins.traffic import Kind, Traffic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.cookiejar import Cookie

    from agent.config.proxies import Route
    from agent.config.settings import JenkinsSettings
    from agent.model.times import Clock

# The setting `timeout` limits every wait; this many times that, but at least a minute, limits the whole answer. The
# list of 20,000 jobs is 3 MB that Jenkins generates while it sends, so a slow but steady answer is accepted.
WHOLE_TIMEOUTS = 4
WHOLE_LEAST_S = 60.0
# Maximum bytes of an answer, before and after decompression. The list of 100,000 jobs has this size.
BODY_LIMIT = 16 * 1024 * 1024
_HEADERS_LIMIT = 1024 * 1024
_CHUNK = 64 * 1024
# The rest of an error page is read only if it is short and has arrived, so that the connection can be used again.
_REST_LIMIT = 64 * 1024
_REST_S = 1.0
# With a Retry-After these concern the client, not one page.
_RESTS = (429, 503)
# Characters of a foreign header that messages show.
_SHOWN = 300
# Sticky sessions need one or two. With more, or longer ones, servers would refuse the requests.
_COOKIES = 20
_COOKIE_LENGTH = 512
_FAILURES = (requests.RequestException, urllib3.exceptions.HTTPError, jenkins.JenkinsException, OSError)


class Transport:
    """The connections to one controller, through python-jenkins. Methods may run in several threads."""

    def __init__(self, settings: JenkinsSettings, clock: Clock) -> None:
        """Raises :class:`agent.config.file.ConfigError` if the environment names a proxy that cannot be used."""
        self._url = settings.url
        self._token = settings.token
        self._username = settings.username
        self._timeout_s = settings.timeout_ms / 1000
        self._clock = clock
        self._limit = RateLimit(settings.requests_per_minute, self._clock)
        self._at_once = threading.BoundedSemaphore(settings.concurrency)
        self._jenkins = jenkins.Jenkins(settings.url, timeout=self._timeout_s)
        self.session: requests.Session = self._jenkins._session
        self.session.trust_env = False  # ``Route`` decides about proxies, and ~/.netrc must not be used
        self._route = _route(settings.url)
        proxy = self._route.proxy
        if proxy is not None:
            self.session.proxies = dict.fromkeys(("http", "https"), proxy.url)
        for scheme in ("http://", "https://"):  # one kept-alive connection for each concurrent request
            authorization = None if proxy is None else proxy.authorization
            self.session.mount(scheme, Adapter(connections=settings.concurrency, proxy_authorization=authorization))
        self.session.verify = _authorities(settings)
        if settings.tls.client_certificate is not None:
            self.session.cert = (
                str(settings.tls.client_certificate),
                str(settings.tls.client_key or settings.tls.client_certificate),
            )
        self.session.cookies = _FewCookies()
        self.session.headers["User-Agent"] = settings.user_agent
        self.session.headers["Accept-Encoding"] = "gzip"  # decompressed here, with a limit
        # The hook runs before requests follows a redirect with the credentials, before python-jenkins turns an outage
        # into "job does not exist", and before either reads a body of any size.
        self.session.hooks["response"].append(self._refuse)
        self._authenticate()
        self._lock = threading.Lock()
        self._under_way: set[Exchange] = set()
        self._closed = threading.Event()
        self.requests = 0
        self.progress = 0
        self.traffic = Traffic(clock)
        self._quiet_until = 0.0

    def close(self) -> None:
        """Abort all requests in all threads with :class:`StoppedError`; later ones raise it too."""
        with self._lock:
            self._closed.set()
            for exchange in self._under_way:
                exchange.abort()
        self.session.close()

    def reload_token(self) -> bool:
        """Read the token file again; True if the token has changed."""
        if self._token is None or not self._token.reload():
            return False
        self._authenticate()
        return True

    def _authenticate(self) -> None:
        if self._username is not None and self._token is not None and self._token.problem is None:
            credentials = self._username.encode(), self._token.reveal().encode()
            self.session.auth = requests.auth.HTTPBasicAuth(*credentials)

    def get(self, path: str, tree: str | None, kind: Kind, *, most: int | None = None) -> Answer:
        """GET ``path`` below the controller's URL. ``most``: maximum bytes of the answer, instead of ``BODY_LIMIT``.

        Raises :class:`JenkinsError`; :class:`TooLargeError` for a larger answer.
        """
        limit = BODY_LIMIT if most is None else min(most, BODY_LIMIT)
        if self._token is not None and self._token.problem is not None:
            raise UnauthorizedError(f"no requests are sent to {self._url} without its token: {self._token.problem}")
        self._raise_if_asked_to_wait()
        if (wait_s := self._limit.reserve()) > 0:
            self._wait(wait_s)
        page = self._url + path
        request = requests.Request("GET", page, params={"tree": tree} if tree else None)
        with self._at_once, self._exchange(kind, limit) as exchange:
            try:
                answer = self._answer(page, request, exchange, limit)
            except JenkinsError:
                self._raise_if_closed()
                raise
            except _FAILURES as error:
                self._raise_if_closed()
                raise self._in_words(page, exchange, error) from error
            self._raise_if_closed()  # an answer without a length may have ended because the client was closed
            return answer

    def _wait(self, seconds: float) -> None:
        self._closed.wait(seconds)

    def _raise_if_closed(self) -> None:
        if self._closed.is_set():
            raise StoppedError(f"request to {self._url} canceled: the agent is stopping")

    def _raise_if_asked_to_wait(self) -> None:
        left_ms = round((self._quiet_until - self._clock.monotonic()) * 1000)
        if left_ms > 0:
            raise AskedToWaitError(
                f"no requests to {self._url} for {describe_duration(left_ms)}: it asked for a wait (Retry-After)",
                retry_after_ms=left_ms,
                asked=False,
            )

    @contextmanager
    def _exchange(self, kind: Kind, limit: int) -> Iterator[Exchange]:
        self._raise_if_asked_to_wait()
        whole_s = max(WHOLE_TIMEOUTS * self._timeout_s, WHOLE_LEAST_S)
        exchange = Exchange(self._timeout_s, whole_s, limit + _HEADERS_LIMIT, self._note_progress)
        with self._lock:
            self._raise_if_closed()
            self._under_way.add(exchange)
            self.requests += 1
            self.progress += 1
        token = exchange_under_way.set(exchange)
        began = self._clock.monotonic()
        try:
            yield exchange
        finally:
            exchange_under_way.reset(token)
            self.traffic.note(kind, exchange.received, self._clock.monotonic() - began)
            with self._lock:
                self._under_way.discard(exchange)
            exchange.finish()

    def _note_progress(self, size: int) -> None:
        with self._lock:
            self.progress += size

    # ---- checking answers

    def _answer(self, page: str, request: requests.Request, exchange: Exchange, limit: int) -> Answer:
        began = self._clock.monotonic()
        response = self._jenkins.jenkins_request(request, add_crumb=False, resolve_auth=False, stream=True)
        kind = _shown(response.headers.get("Content-Type", "no type"))
        if "json" not in kind:
            _throw_away(response, exchange)
            raise _marked(
                BadAnswerError(
                    f"{page} returned {response.status_code} with {kind} instead of Jenkins' JSON: this may be a login "
                    "page or a proxy; check [[jenkins]] url"
                ),
                response,
            )
        body = bytearray()
        with response:
            while chunk := response.raw.read(_CHUNK, decode_content=False):
                body += chunk
                if len(body) > limit:
                    raise too_large(page, limit)
        content = _unpacked(page, body, response.headers.get("Content-Encoding", ""), limit)
        return Answer(page, content, response.headers, self._clock.monotonic() - began, limit)

    def _refuse(self, response: requests.Response, *_: Any, **__: Any) -> None:
        """Turn an error response into an exception. As a hook it runs before any other code sees the response."""
        status = response.status_code
        if status < 300:
            return
        _throw_away(response, exchange_under_way.get())
        try:
            self._raise_for(response)
        except JenkinsError as error:
            raise _marked(error, response) from None

    def _raise_for(self, response: requests.Response) -> NoReturn:
        status = response.status_code
        where = f"HTTP {status} from {response.request.path_url.partition('?')[0]}"
        match status:
            case 401:
                raise UnauthorizedError(f"{where}: wrong user or API token; check [[jenkins]] username and token_file")
            case 403:
                _raise_forbidden(where, response)
            case 404:
                raise NotFoundError(f"{where}: it does not exist, or this user may not see it")
            case 407:
                raise BadAnswerError(f"{where}: {_wants_credentials(self._route)}")
            case 408 | 425 | 429:
                self._raise_unreachable(where, response)
            case _ if status >= 502:
                self._raise_unreachable(where, response)
            case _ if status < 400 and "Location" in response.headers:
                raise BadAnswerError(
                    f"{where}: it redirects to {_shown(response.headers['Location'])}; set [[jenkins]] url to "
                    "the URL of Jenkins itself"
                )
            case _:
                raise PageError(f"{where}: not an answer of Jenkins' API; see the log of Jenkins")

    def _raise_unreachable(self, where: str, response: requests.Response) -> NoReturn:
        retry_after_ms = parse_retry_after(response.headers.get("Retry-After"), self._clock.now_ms())
        what = f"{where}: Jenkins is starting, stopping or overloaded"
        if not retry_after_ms or response.status_code not in _RESTS:
            raise UnreachableError(what, retry_after_ms=retry_after_ms)
        # A server or rate-limiting proxy that asks to wait means all requests.
        retry_after_ms = min(retry_after_ms, round(LONGEST_BACKOFF_S * 1000))
        self._quiet_until = max(self._quiet_until, self._clock.monotonic() + retry_after_ms / 1000)
        raise AskedToWaitError(
            f"{what}; it asked the agent to wait {describe_duration(retry_after_ms)} (Retry-After)",
            retry_after_ms=retry_after_ms,
            asked=True,
        )

    def _in_words(self, page: str, exchange: Exchange, error: Exception) -> JenkinsError:
        reason = exchange.failure or _root_cause(error)
        if exchange.connected:
            return UnreachableError(f"no answer from {page}: {reason}")
        if isinstance(error, requests.exceptions.ProxyError):
            reason = _about_proxy(self._route, reason)
        elif advice := tls.advice(error, "[[jenkins]]"):
            reason += f"; {advice}"
        return ControllerDownError(f"no answer from {page}: {reason}")


def _route(url: str) -> Route:
    try:
        return Proxies().route(url)
    except ProxyError as error:
        raise ConfigError(str(error)) from error


def _about_proxy(route: Route, reason: str) -> str:
    if "Tunnel connection failed: 407" in reason:
        return _wants_credentials(route)
    return f"{reason}, {route}; check the proxy and {route.reason}"


def _wants_credentials(route: Route) -> str:
    if route.proxy is None:
        return "a proxy in front of Jenkins requires credentials"
    return (
        f"the proxy {route.proxy.url} requires credentials; write them in {route.reason} as "
        "http://user:password@host:port"
    )


def _marked(error: JenkinsError, response: requests.Response) -> JenkinsError:
    error.status = response.status_code
    # A wrong token is refused before Jenkins writes its own header.
    realm = response.headers.get("WWW-Authenticate", "")
    error.from_jenkins = "X-Jenkins" in response.headers or 'realm="Jenkins"' in realm
    return error


def _raise_forbidden(where: str, response: requests.Response) -> NoReturn:
    user = _shown(response.headers.get("X-You-Are-Authenticated-As", ""))
    if missing := _shown(response.headers.get("X-Required-Permission", "")):
        raise ForbiddenError(f"{where}: user {user} lacks the permission {missing}; grant it in Jenkins")
    raise ForbiddenError(f"{where}: credentials are needed; set [[jenkins]] username and token_file")


def _shown(header: str) -> str:
    """A header for messages. It is redacted before it is cut, because half a secret would not be recognised."""
    return redact(header)[:_SHOWN]


def _throw_away(response: requests.Response, exchange: Exchange) -> None:
    """Keep the connection if the rest of the answer is short and has arrived; close it otherwise."""
    exchange.hurry(_REST_S)
    with suppress(urllib3.exceptions.HTTPError, OSError), response:
        response.raw.read(_REST_LIMIT, decode_content=False)


class _FewCookies(requests.cookies.RequestsCookieJar):
    """Stores no more cookies than a request can carry."""

    def __init__(self) -> None:
        super().__init__(DefaultCookiePolicy())

    def __iter__(self) -> Iterator[Cookie]:  # type: ignore[override]  # the stubs mean names
        """A copy for each request, because another thread may store cookies meanwhile."""
        with self._cookies_lock:  # type: ignore[attr-defined]
            return iter(list(super().__iter__()))

    def set_cookie(self, cookie: Cookie, *args: Any, **kwargs: Any) -> None:
        """See ``http.cookiejar``."""
        if len(cookie.name) + len(cookie.value or "") > _COOKIE_LENGTH:
            return
        if len(self) >= _COOKIES and cookie.name not in self.keys():
            self.clear()  # a server that sends so many cookies does not need all of them
        super().set_cookie(cookie, *args, **kwargs)


def _unpacked(page: str, body: bytearray, encoding: str, limit: int) -> bytes | bytearray:
    try:
        content = unpacked(body, encoding, limit)
    except PackedError as error:
        raise BadAnswerError(f"{page} {error}") from error
    if len(content) > limit:
        raise too_large(page, limit)
    return content


def _authorities(settings: JenkinsSettings) -> str | bool:
    """The trusted CAs: the system's, as for Hivel; requests would use its own list."""
    if settings.tls.ca_file is not None:
        return str(settings.tls.ca_file)
    if named := os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE"):
        return named
    system = ssl.get_default_verify_paths()
    return system.cafile or system.capath or True


def _root_cause(error: BaseException) -> str:
    """The innermost cause: requests wraps urllib3, which wraps the original error."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return str(error) or type(error).__name__
