"""Which proxy a URL is asked through: what the usual variables mean, for both clients alike."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.config.proxies import Proxies, ProxyError
from agent.sources.jenkins.connection import Adapter

PROXY = "http://proxy.example.test:3128"
SECRET = "hunter2"


def way(url: str, **environment: str) -> str | None:
    """The URL of the proxy; None: directly."""
    proxy = Proxies(environment).route(url).proxy
    return None if proxy is None else proxy.url


# ---- which variable counts


@pytest.mark.parametrize(
    ("url", "environment", "expected"),
    [
        ("http://ci/", {}, None),
        ("http://ci/", {"HTTP_PROXY": PROXY}, PROXY),
        ("https://ci/", {"HTTP_PROXY": PROXY}, None),
        ("https://ci/", {"HTTPS_PROXY": PROXY}, PROXY),
        ("http://ci/", {"HTTPS_PROXY": PROXY}, None),
        ("http://ci/", {"ALL_PROXY": PROXY}, PROXY),
        ("https://ci/", {"all_proxy": PROXY}, PROXY),
        ("https://ci/", {"HTTPS_PROXY": "http://other:1", "ALL_PROXY": PROXY}, "http://other:1"),
        # Lower case first, and an empty one says that there is none: urllib.request, getproxies_environment.
        ("http://ci/", {"HTTP_PROXY": PROXY, "http_proxy": "http://other:1"}, "http://other:1"),
        ("http://ci/", {"HTTP_PROXY": PROXY, "http_proxy": ""}, None),
        ("http://ci/", {"HTTP_PROXY": "", "ALL_PROXY": PROXY}, PROXY),
        ("http://ci/", {"HTTP_PROXY": PROXY, "NO_PROXY": "ci", "no_proxy": "other"}, PROXY),
        ("http://ci/", {"HTTP_PROXY": PROXY, "NO_PROXY": "ci", "no_proxy": ""}, PROXY),
        # How a proxy may be written: curl(1), --proxy.
        ("http://ci/", {"HTTP_PROXY": "proxy.example.test:3128"}, PROXY),
        ("http://ci/", {"HTTP_PROXY": "proxy.example.test"}, "http://proxy.example.test:80"),
        ("http://ci/", {"HTTP_PROXY": "https://proxy.example.test/"}, "https://proxy.example.test:443"),
        ("http://ci/", {"HTTP_PROXY": " HTTP://10.0.0.1:3128/path?query#fragment "}, "http://10.0.0.1:3128"),
        ("http://ci/", {"HTTP_PROXY": "http://[fd00::1]:3128"}, "http://[fd00::1]:3128"),
        ("http://ci/", {"HTTP_PROXY": "http://[fd00::1]"}, "http://[fd00::1]:80"),
    ],
)
def test_the_variable_of_the_scheme_counts_then_all_proxy(
    url: str, environment: dict[str, str], expected: str | None
) -> None:
    assert way(url, **environment) == expected


@pytest.mark.parametrize(
    ("value", "authorization"),
    [
        ("http://someone:hunter2@proxy", "Basic c29tZW9uZTpodW50ZXIy"),
        ("someone:hunter2@proxy", "Basic c29tZW9uZTpodW50ZXIy"),
        ("http://some%40one:h%3Aunter2@proxy", "Basic c29tZUBvbmU6aDp1bnRlcjI="),
        ("http://some@one:hunter2@proxy", "Basic c29tZUBvbmU6aHVudGVyMg=="),
        ("http://jürgen:schlüssel%@proxy", "Basic asO8cmdlbjpzY2hsw7xzc2VsJQ=="),
        ("http://someone@proxy", "Basic c29tZW9uZTo="),
        ("http://@proxy", None),
    ],
)
def test_credentials_of_a_proxy_are_a_header_and_in_no_address(value: str, authorization: str | None) -> None:
    route = Proxies({"HTTPS_PROXY": value}).route("https://ci/")
    assert route.proxy is not None
    assert (route.proxy.url, route.proxy.authorization) == ("http://proxy:80", authorization)
    shown = f"{route} {route!r} {route.proxy!r}"
    assert "someone" not in shown and "Basic" not in shown


# ---- NO_PROXY

# Entry, URLs that it covers, URLs that it does not. Sources: the manuals of curl (CURLOPT_NOPROXY), of wget
# (no_proxy), of Go's net/http (golang.org/x/net/http/httpproxy), and of Python's urllib.request.
NO_PROXY = [
    ("*", ["http://ci/", "http://[::1]/", "http://10.0.0.1/"], []),
    ("other, *", ["http://ci/"], []),
    # A name is itself and what is below it, at whole labels (curl, Go); a dot before it changes nothing (curl, urllib).
    ("example.test", ["http://example.test/", "http://ci.example.test/"], ["http://notexample.test/", "http://test/"]),
    (".example.test", ["http://example.test/", "http://a.b.example.test/"], ["http://notexample.test/"]),
    ("*.example.test", ["http://ci.example.test/"], ["http://notexample.test/"]),  # Go
    ("Example.TEST.", ["http://ci.example.test/", "http://EXAMPLE.test./"], []),  # curl
    ("localhost", ["http://localhost:8080/"], ["http://127.0.0.1/"]),
    # Commas, spaces, or both (curl, wget).
    ("a.test b.test,c.test , d.test,,", [f"http://{c}.test/" for c in "abcd"], ["http://e.test/"]),
    # A port (Go, wget, requests); of the scheme where the URL has none.
    ("ci.test:8080", ["http://ci.test:8080/", "http://a.ci.test:8080/"], ["http://ci.test/", "http://ci.test:8081/"]),
    ("ci.test:443", ["https://ci.test/"], ["http://ci.test/"]),
    ("10.0.0.1:8080", ["http://10.0.0.1:8080/"], ["http://10.0.0.1/"]),
    ("[::1]:8080", ["http://[::1]:8080/"], ["http://[::1]/"]),
    # Addresses and networks (Go, curl since 7.86), with brackets or without.
    ("10.0.0.1", ["http://10.0.0.1:8080/"], ["http://10.0.0.10/", "http://1.10.0.0.1.test/"]),
    ("10.0.0.0/8", ["http://10.255.0.1/"], ["http://11.0.0.1/", "http://ci.test/"]),
    ("10.1.2.3/8", ["http://10.255.0.1/"], ["http://11.0.0.1/"]),
    ("::1", ["http://[::1]/", "http://[0:0:0:0:0:0:0:1]:8080/"], ["http://[::2]/", "http://127.0.0.1/"]),
    ("[::1]", ["http://[::1]/", "http://[::1]:8080/"], ["http://[::2]/"]),
    ("fd00::/8", ["http://[fd12::1]/"], ["http://[fe80::1]/", "http://10.0.0.1/"]),
    ("[fd00::]/8", ["http://[fd12::1]/"], ["http://[fe80::1]/"]),
    ("[fd00::/8]", ["http://[fd12::1]/"], ["http://[fe80::1]/"]),
    ("10.0.0.0/8", ["http://[::ffff:10.0.0.1]/"], []),
    ("0.0.0.0/0", ["http://10.0.0.1/"], ["http://[::1]/", "http://ci.test/"]),
    # The end of an address is no domain.
    ("1", [], ["http://10.0.0.1/"]),
    # For one scheme only (httpx).
    ("http://ci.test", ["http://ci.test/"], ["https://ci.test/"]),
    ("https://*", ["https://ci.test/"], ["http://ci.test/"]),
    ("https://10.0.0.0/8", ["https://10.1.1.1/"], ["http://10.1.1.1/"]),
    ("", [], ["http://ci.test/"]),
]


@pytest.mark.parametrize(("entry", "covered", "others"), NO_PROXY)
def test_no_proxy_names_those_who_are_asked_directly(entry: str, covered: list[str], others: list[str]) -> None:
    environment = {"HTTP_PROXY": PROXY, "HTTPS_PROXY": PROXY, "NO_PROXY": entry}
    assert Proxies(environment).unusable == []
    assert {url: way(url, **environment) for url in covered} == dict.fromkeys(covered)
    assert {url: way(url, **environment) for url in others} == dict.fromkeys(others, PROXY)


@pytest.mark.parametrize(
    "entry",
    ["10.0.0.0/99", "10.0.0.1/8/8", "[::1", "::1]", "[ci.test]", "ci.test:http", "ci.test:0", "ftp://ci.test", "ä.test",
     "a..b", "10.0.0.0/8:80", "ci.test/path", "|", "http://"],
)  # fmt: skip
def test_an_entry_that_means_nothing_is_named_and_the_others_count(entry: str) -> None:
    environment = {"HTTP_PROXY": PROXY, "no_proxy": f"{entry},good.test"}
    [told] = Proxies(environment).unusable
    assert told.startswith("no_proxy: ") and entry in told
    assert way("http://good.test/", **environment) is None
    assert way("http://other.test/", **environment) == PROXY


def test_who_is_asked_directly_is_not_kept_from_it_by_a_proxy_that_cannot_be_used() -> None:
    assert way("http://ci/", HTTP_PROXY="socks5://proxy", NO_PROXY="ci") is None


# ---- what cannot be used


@pytest.mark.parametrize(
    "value",
    ["socks5://p:1080", "SOCKS5H://p", "ftp://proxy", "http://", "http://:3128", "http://proxy:http", "http://proxy:0",
     "http://proxy:65536", "http://pro xy", "http://[::1", "http://[hunter2]", "http://proxy\x00", "://proxy", "http://ä"],
)  # fmt: skip
def test_a_proxy_that_cannot_be_used_is_told_by_its_variable_and_without_its_value(value: str) -> None:
    secret = value.replace("://", f"://someone:{SECRET}@") if "[" not in value else value
    with pytest.raises(ProxyError) as error:
        Proxies({"https_proxy": secret}).route("https://ci/")
    assert str(error.value).startswith("https_proxy names a proxy that cannot be used: ")
    assert SECRET not in str(error.value) and len(str(error.value)) < 150


URLS = ["http://ci/", "https://ci.example.test:8443/jenkins/", "http://10.0.0.1/", "https://[fd00::1]:8080/"]
pieces = st.sampled_from(["http://", "https://", "socks5://", "://", "[", "]", "::1", "fd00::", "/8", ":", "@", "%",
                          "*", ".", ",", " ", "ci", "10.0.0.1", "8080", "ä", "\udcff", "\x00", "#", "?"])  # fmt: skip
values = st.lists(pieces | st.text(max_size=5), max_size=8).map("".join)


@given(values, values, values)
@example("http://[::1]:8080", "", "[::1],fd00::/8")
@example("http://a:%zz@b", "x", "%")
def test_no_value_of_any_variable_raises_anything_else(proxy: str, no_proxy: str, all_proxy: str) -> None:
    proxies = Proxies({"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "NO_PROXY": no_proxy, "ALL_PROXY": all_proxy})
    for url in URLS:
        try:
            route = proxies.route(url)
        except ProxyError as error:
            assert str(error).isprintable()
            continue
        assert str(route)
        if route.proxy is not None:  # and then both clients can use it
            httpx.AsyncClient(proxy=route.proxy.url, trust_env=False)
            adapter = Adapter(connections=1, proxy_authorization=route.proxy.authorization)
            adapter.proxy_manager_for(route.proxy.url)
            assert all(value.isascii() for value in adapter.proxy_headers(route.proxy.url).values())
