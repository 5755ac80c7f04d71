"""Tokens: found in one of three places, shown in none."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from agent.config.credentials import Token, TokenError, find_controllers_token, find_token, variable_of

SECRET = "s3cr3t-0123456789"
VARIABLE = "HIVEL_API_TOKEN"
CREDENTIAL = "hivel-token"


@pytest.fixture(autouse=True)
def _nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (VARIABLE, "JENKINS_API_TOKEN", "JENKINS_API_TOKEN_CI_EU", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{SECRET}\n", encoding="utf-8")
    return path


def found(token_file: Path | None = None) -> str | None:
    token = find_token(token_file, VARIABLE, CREDENTIAL)
    return None if token is None else token.reveal()


@pytest.mark.parametrize("content", [SECRET, f"{SECRET}\n", f"  {SECRET}\r\n", f"\n{SECRET}\n\n"])
def test_the_token_of_a_file_is_its_only_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "token"
    path.write_bytes(content.encode())
    assert Token.from_file(path).reveal() == SECRET


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"s3cr3t\n0123\n", "does not contain a token"),
        (b"s3cr3t 0123", "does not contain a token"),
        (b"s3cr3t\t0123", "does not contain a token"),
        (b"s3cr3t\x00", "does not contain a token"),
        ("schlüssel".encode(), "does not contain a token"),
        (b"\xff\xfe\x00", "the file is UTF-16 text; save it as UTF-8"),
        (b"\ns3cr3t\xfc", "line 2 is not UTF-8; save the file as UTF-8"),
    ],
)
def test_a_file_without_a_usable_token_is_named_and_its_content_is_not(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(TokenError, match=problem) as error:
        Token.from_file(path)
    assert str(path) in str(error.value)
    for word in content.decode(errors="replace").split():
        assert word not in str(error.value).replace(str(path), "")


def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match="No such file or directory") as error:
        Token.from_file(tmp_path / "absent")
    assert str(tmp_path / "absent") in str(error.value)
    with pytest.raises(TokenError, match="Is a directory"):
        Token.from_file(tmp_path)


def test_the_file_comes_before_the_environment_and_that_before_systemd(
    tmp_path: Path, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found() is None
    directory = tmp_path / "credentials"
    directory.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    assert found() is None
    (directory / CREDENTIAL).write_text("from-systemd", encoding="utf-8")
    assert found() == "from-systemd"
    monkeypatch.setenv(VARIABLE, " from-environment ")
    assert found() == "from-environment"
    assert found(token_file) == SECRET


def test_a_named_file_that_is_missing_is_not_replaced_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, SECRET)
    with pytest.raises(TokenError, match="cannot read"):
        found(tmp_path / "absent")


def test_an_empty_variable_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")
    with pytest.raises(TokenError, match=f"the environment variable {VARIABLE} is empty"):
        found()


def test_a_token_is_shown_by_nothing_but_reveal(token_file: Path) -> None:
    for token in (Token(SECRET), Token.from_file(token_file)):
        for shown in (str(token), repr(token), f"{token}", f"{token!r:>60}", repr([token]), repr({"token": token})):
            assert SECRET not in shown
        assert token.reveal() == SECRET


def test_the_repr_says_where_the_token_comes_from(token_file: Path) -> None:
    assert repr(Token.from_file(token_file)) == f"Token({token_file})"
    assert repr(Token(SECRET)) == "Token(***)"


def test_no_traceback_shows_an_unusable_token(tmp_path: Path) -> None:
    path = tmp_path / "token"
    for content in (f"{SECRET} x".encode(), SECRET.encode() + b"\xff"):
        path.write_bytes(content)
        with pytest.raises(TokenError) as error:
            Token.from_file(path)
        assert SECRET not in "".join(traceback.format_exception(error.value))


def test_a_replaced_file_gives_the_new_token(token_file: Path) -> None:
    token = Token.from_file(token_file)
    assert token.reload() is False
    token_file.write_text("fresh", encoding="utf-8")
    assert token.reload() is True
    assert token.reveal() == "fresh"
    assert token.reload() is False


def test_a_file_that_is_just_being_replaced_changes_nothing(token_file: Path) -> None:
    token = Token.from_file(token_file)
    token_file.write_text("", encoding="utf-8")
    assert token.reload() is False
    token_file.unlink()
    assert token.reload() is False
    assert token.reveal() == SECRET


def test_a_token_of_the_environment_has_nothing_to_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, SECRET)
    token = find_token(None, VARIABLE, CREDENTIAL)
    assert token is not None
    monkeypatch.setenv(VARIABLE, "fresh")
    assert token.reload() is False
    assert token.reveal() == SECRET


def test_a_folder_of_credentials_that_cannot_be_read_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

    def exists(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", exists)
    with pytest.raises(TokenError, match=r"cannot access .*hivel-token: Permission denied"):
        find_token(None, "NO_SUCH_VARIABLE", "hivel-token")


# ---- a token that is not there yet


def test_a_token_that_is_not_there_yet_says_why_and_is_found_later(tmp_path: Path) -> None:
    path = tmp_path / "token"
    with pytest.raises(TokenError) as error:
        Token.from_file(path)
    token = Token.missing(error.value)
    assert token.problem == f"cannot read {path}: No such file or directory"
    with pytest.raises(TokenError, match="No such file"):
        token.reveal()
    path.touch()
    assert token.reload() is False
    assert token.problem == f"{path} is empty; write the token as its only line", "it says what is wrong now"
    path.write_text(SECRET, encoding="utf-8")
    assert token.reload() is True
    assert (token.reveal(), token.problem) == (SECRET, None)
    path.unlink()
    assert token.reload() is False
    assert (token.reveal(), token.problem) == (SECRET, None), "what was there once stays"


# ---- the tokens of several controllers


def test_a_controllers_own_places_come_before_those_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> str | None:
        token = find_controllers_token(None, "ci-eu")
        return None if token is None else token.reveal()

    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert found() is None
    (tmp_path / "jenkins-token").write_text("credential-of-all", encoding="utf-8")
    assert found() == "credential-of-all"
    monkeypatch.setenv("JENKINS_API_TOKEN", "variable-of-all")
    assert found() == "variable-of-all"
    (tmp_path / "jenkins-token.ci-eu").write_text("own-credential", encoding="utf-8")
    (tmp_path / "jenkins-token.ci-us").write_text("credential-of-another", encoding="utf-8")
    assert found() == "own-credential"
    monkeypatch.setenv("JENKINS_API_TOKEN_CI_EU", "own-variable")
    assert found() == "own-variable"
    (tmp_path / "file").write_text("own-file", encoding="utf-8")
    token = find_controllers_token(tmp_path / "file", "ci-eu")
    assert token is not None
    assert token.reveal() == "own-file"


def test_an_empty_credential_of_its_own_is_not_replaced_by_that_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another controller's administrator is not to see this token."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "jenkins-token").write_text("credential-of-all", encoding="utf-8")
    (tmp_path / "jenkins-token.ci-eu").touch()
    with pytest.raises(TokenError, match=r"jenkins-token\.ci-eu: .* is empty.*LoadCredential=.*restart"):
        find_controllers_token(None, "ci-eu")


def test_no_name_of_a_controller_leads_out_of_the_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "credentials"
    (directory / "jenkins-token.x").mkdir(parents=True)
    (tmp_path / "secret").write_text("of-somebody-else", encoding="utf-8")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    assert find_controllers_token(None, "x/../../secret") is None


@pytest.mark.parametrize(
    ("controller", "variable"),
    [
        ("main", "JENKINS_API_TOKEN_MAIN"),
        ("ci-eu.example.com:8080", "JENKINS_API_TOKEN_CI_EU_EXAMPLE_COM_8080"),
        ("zürich", "JENKINS_API_TOKEN_Z__RICH"),
    ],
)
def test_the_variable_of_a_controller(controller: str, variable: str) -> None:
    assert variable_of(controller) == variable
