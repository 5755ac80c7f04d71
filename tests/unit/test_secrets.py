"""No secret is left in a text, however it is written there, and everything else is."""

from __future__ import annotations

import html
import json
import re
import time
from base64 import b64encode, urlsafe_b64encode
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.credentials import Token
from agent.config.proxies import Proxies
from agent.model.secrets import HIDDEN, SHORTEST, Secrets, redact, trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TOKEN = "hvl_9z/K+q=7Qx-W_2~aa.BB"


def every_percent(text: str) -> str:
    return "".join(f"%{octet:02x}" for octet in text.encode())


def every_escape(text: str) -> str:
    return json.dumps(text)[1:-1] if not text.isascii() else "".join(f"\\u{ord(letter):04X}" for letter in text)


def every_entity(text: str) -> str:
    return "".join(f"&#x{ord(letter):X};" for letter in text)


SPELLINGS: dict[str, Callable[[str], str]] = {
    "raw": str,
    "percent": lambda text: quote(text, safe=""),
    "percent but for slashes": quote,
    "percent, lower case": lambda text: quote(text, safe="").lower() if text.islower() else every_percent(text),
    "percent, every letter": every_percent,
    "percent twice": lambda text: quote(quote(text, safe=""), safe=""),
    "form": quote_plus,
    "json": lambda text: json.dumps(text)[1:-1],
    "json, not ASCII": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "json, slashes too": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "json, every letter": every_escape,
    "json in json": lambda text: json.dumps(json.dumps(text)[1:-1])[1:-1],
    "html": html.escape,
    "html, every letter": every_entity,
    "html in html": lambda text: html.escape(html.escape(text)),
    "html in a URL": lambda text: quote(html.escape(text)),
    "repr of octets": lambda text: repr(text.encode())[2:-1],
    "octets taken for letters": lambda text: text.encode().decode("latin-1"),
    "base64": lambda text: b64encode(text.encode()).decode(),
    "basic": lambda text: b64encode(f"jenkins-bot:{text}".encode()).decode(),
    "basic of another user": lambda text: b64encode(f"x:{text}".encode()).decode(),
    "basic in a URL": lambda text: quote(b64encode(f"agent:{text}".encode()).decode(), safe=""),
    "base64 for URLs": lambda text: urlsafe_b64encode(f"me:{text}:1".encode()).decode(),
}
# No letters that base64 or an escape are made of, so that what surrounds a secret does not make another text of it.
AROUND = st.text(
    st.characters(blacklist_categories=("Cs", "L", "Nd"), blacklist_characters="%\\&+/=_-*#;"), max_size=12
)
# Any text without line breaks; no three stars, or the place where it was could be taken for it.
PASSWORD = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=5, max_size=30)


@pytest.mark.parametrize("spelling", SPELLINGS)
@given(
    secret=PASSWORD | st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=5, max_size=60),
    before=AROUND,
    behind=AROUND,
)
def test_a_secret_in_any_spelling_is_gone_and_what_is_around_it_stays(
    spelling: str, secret: str, before: str, behind: str
) -> None:
    secrets = Secrets()
    secrets.know(secret)
    if any(secret in text for text in (before, behind, HIDDEN)):
        return
    written = SPELLINGS[spelling](secret)
    told = secrets.redact(before + written + behind)
    rest = told.removeprefix(before).removesuffix(behind)
    assert re.sub(r"amp;|\\", "", rest) in (HIDDEN, HIDDEN * 2), "no more than half an escape is left of it"


@given(st.lists(st.tuples(AROUND, st.sampled_from(sorted(SPELLINGS))), max_size=6))
def test_however_often_it_is_there(parts: list[tuple[str, str]]) -> None:
    secrets = Secrets()
    secrets.know(TOKEN)
    text = "".join(f"{around} {SPELLINGS[spelling](TOKEN)} " for around, spelling in parts)
    assert secrets.redact(text) == "".join(f"{around} {HIDDEN} " for around, _ in parts)


@given(st.text())
def test_a_text_without_it_is_left_as_it_is(text: str) -> None:
    secrets = Secrets()
    secrets.know(TOKEN)
    assert secrets.redact(text) == text


def test_one_that_is_part_of_another_leaves_no_rest_of_it() -> None:
    secrets = Secrets()
    for secret in ("abcd", "abcdefgh", "bcde"):
        secrets.know(secret)
    assert secrets.redact("x abcdefgh y abcd z") == f"x {HIDDEN} y {HIDDEN} z"


def test_a_word_that_is_too_short_to_be_secret_takes_nothing_out() -> None:
    secrets = Secrets()
    secrets.know("abcd"[: SHORTEST - 1])
    secrets.know("")
    assert secrets.redact("abcabc") == "abcabc"


@pytest.mark.parametrize("part", ["\\", "%25", "&amp;", "\\\\u005c", "%", "&#", TOKEN[:-1], "aHZs"])
def test_no_text_takes_long(part: str) -> None:
    """64 KB of escapes of escapes take some 60 ms. With what grows with the square it would be minutes."""
    secrets = Secrets()
    secrets.know(TOKEN)
    began = time.process_time()
    secrets.redact(part * (65_536 // len(part)))
    assert time.process_time() - began < 5


# ---- who says what is secret


def test_a_token_is_known_from_when_it_is_read_also_one_that_it_was_before(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first-of-the-tokens\n")
    token = Token.from_file(file)
    assert redact("it is first-of-the-tokens") == "it is ***"
    file.write_text("second-of-the-tokens\n")
    assert token.reload()
    assert redact("first-of-the-tokens second-of-the-tokens") == "*** ***"


@pytest.mark.parametrize(
    "value",
    ["http://someone:pass%2Fword-1@proxy.example.test:3128", "someone:pass%2Fword-1@proxy.example.test",
     "socks5://someone:pass%2Fword-1@proxy.example.test", "nonsense://someone:pass%2Fword-1@"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["HTTPS_PROXY", "http_proxy", "ALL_PROXY"])
def test_the_password_of_a_proxy_is_known_whether_or_not_it_can_be_used(name: str, value: str) -> None:
    Proxies({name: value})
    said = f"pass/word-1 {value} Basic {b64encode(b'someone:pass/word-1').decode()}"
    assert "pass" not in redact(said) and "c2" not in redact(said)


def test_a_trace_tells_where_and_nothing_secret() -> None:
    Token("a-token-in-a-trace")
    with pytest.raises(ValueError, match="invalid literal") as caught:
        int("\ud800 with a%2dtoken-in-a-trace")
    told = trace(caught.value)
    assert "test_secrets.py" in told and "with ***" in told and "a-trace" not in told
    told.encode()
