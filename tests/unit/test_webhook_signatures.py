"""Signatures of webhooks: the vectors of each vendor's documentation, and what is no valid signature."""

from __future__ import annotations

import base64
import hmac
from typing import TYPE_CHECKING

import pytest

from agent.model.part import Part
from agent.sources.webhooks.headers import id_of
from agent.sources.webhooks.signatures import TOLERANCE_S, is_signed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.config.settings import Platform

# https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
GITHUB = ("It's a Secret to Everybody", b"Hello, World!",
          "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17")  # fmt: skip
# https://www.standardwebhooks.com, which GitLab's signing tokens follow
STANDARD_KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
STANDARD_BODY = b'{"test": 2432232314}'
STANDARD_AT = 1614265330
STANDARD = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": str(STANDARD_AT),
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}
# https://circleci.com/docs/webhooks/#validate-webhooks shows these; the whole digests are computed by OpenSSL.
CIRCLECI = [
    ("secret", b"hello world", "734cc62f32841568f45715aeb9f4d7891324e6d948e4c6c60c0621cdac48623a"),
    ("another-secret", b"lalala", "daa220016c8f29a8b214fbfc3671aeec2145cfb1e6790184ffb38b6d0425fa00"),
    ("hunter123", b"an-important-request-payload", "9be2242094a9a8c00c64306f382a7f9d691de910b4a266f67bd314ef18ac49fa"),
]


def signed(
    platform: Platform, secrets: list[str], headers: Mapping[str, str], body: bytes = b"{}", at_s: float = STANDARD_AT
) -> bool:
    return is_signed(platform, secrets, headers, body, int(at_s * 1000))


def basic(text: str) -> dict[str, str]:
    return {"authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


# ---- GitHub


def test_the_vector_of_github_is_valid_and_any_change_is_not() -> None:
    secret, body, digest = GITHUB
    headers = {"x-hub-signature-256": digest}
    assert signed("github", [secret], headers, body)
    assert signed("github", ["next", secret], headers, body)
    assert not signed("github", [secret], headers, body + b" ")
    assert not signed("github", ["next"], headers, body)
    assert not signed("github", [secret], {"x-hub-signature-256": digest.removeprefix("sha256=")}, body)


def test_the_older_signature_of_github_with_sha1_does_not_count() -> None:
    assert not signed("github", ["s"], {"x-hub-signature": "sha1=5d61605c3feea9799210ddcb71307d4ba264225f"})
    assert not signed("github", ["s"], {})


# ---- GitLab


def test_the_plain_token_of_gitlab_is_the_secret() -> None:
    assert signed("gitlab", ["one", "two"], {"x-gitlab-token": "two"})
    assert not signed("gitlab", ["one", "two"], {"x-gitlab-token": "three"})
    assert not signed("gitlab", ["one"], {})


def test_the_vector_of_standard_webhooks_is_valid_for_five_minutes() -> None:
    assert signed("gitlab", [STANDARD_KEY], STANDARD, STANDARD_BODY)
    assert signed("gitlab", [STANDARD_KEY], STANDARD, STANDARD_BODY, STANDARD_AT + TOLERANCE_S)
    assert signed("gitlab", [STANDARD_KEY], STANDARD, STANDARD_BODY, STANDARD_AT - TOLERANCE_S)
    assert not signed("gitlab", [STANDARD_KEY], STANDARD, STANDARD_BODY, STANDARD_AT + TOLERANCE_S + 1)
    assert not signed("gitlab", [STANDARD_KEY], STANDARD, STANDARD_BODY, STANDARD_AT - TOLERANCE_S - 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"webhook-id": "another"}, {"webhook-id": ""}, {"webhook-timestamp": str(STANDARD_AT + 1)},
        {"webhook-timestamp": "now"}, {"webhook-timestamp": ""}, {"webhook-signature": ""},
        {"webhook-signature": STANDARD["webhook-signature"].replace("v1,", "v2,")},
    ],
)  # fmt: skip
def test_a_changed_header_makes_the_signature_invalid(changes: dict[str, str]) -> None:
    assert not signed("gitlab", [STANDARD_KEY], STANDARD | changes, STANDARD_BODY)


def test_one_of_several_signatures_is_enough() -> None:
    several = f"v1,AAAA v1a,BBBB {STANDARD['webhook-signature']}"
    assert signed("gitlab", [STANDARD_KEY], STANDARD | {"webhook-signature": several}, STANDARD_BODY)


def test_with_a_signing_token_the_plain_token_is_not_enough() -> None:
    assert not signed("gitlab", [STANDARD_KEY], {"x-gitlab-token": STANDARD_KEY})
    assert not signed("gitlab", [STANDARD_KEY, "plain"], {"x-gitlab-token": "plain"})
    assert signed("gitlab", ["plain", STANDARD_KEY], STANDARD | {"x-gitlab-token": "plain"}, STANDARD_BODY)


def test_a_signing_token_that_is_not_base64_accepts_nothing() -> None:
    assert not signed("gitlab", ["whsec_?"], STANDARD, STANDARD_BODY)


def test_a_signing_token_without_a_key_accepts_nothing() -> None:
    message = f"{STANDARD['webhook-id']}.{STANDARD['webhook-timestamp']}.".encode() + STANDARD_BODY
    forged = base64.b64encode(hmac.digest(b"", message, "sha256")).decode()
    assert not signed("gitlab", ["whsec_"], STANDARD | {"webhook-signature": f"v1,{forged}"}, STANDARD_BODY)


def test_the_signed_id_of_a_delivery_of_gitlab_counts() -> None:
    assert id_of("gitlab", {"webhook-id": "signed", "idempotency-key": "other"}, Part({}, "")) == "signed"


# ---- CircleCI, Azure DevOps, Argo


@pytest.mark.parametrize(("secret", "body", "digest"), CIRCLECI)
def test_the_vectors_of_circleci_are_valid(secret: str, body: bytes, digest: str) -> None:
    assert signed("circleci", [secret], {"circleci-signature": f"v1={digest}"}, body)
    assert signed("circleci", [secret], {"circleci-signature": f"v2=abc,v1={digest}"}, body)
    assert not signed("circleci", [secret], {"circleci-signature": f"v2={digest}"}, body)
    assert not signed("circleci", ["other"], {"circleci-signature": f"v1={digest}"}, body)


def test_azure_devops_sends_the_secret_as_its_password() -> None:
    assert signed("azure_devops", ["pass"], basic("anybody:pass"))
    assert signed("azure_devops", ["hivel:pass"], basic("hivel:pass"))
    assert not signed("azure_devops", ["hivel:pass"], basic("other:pass"))
    assert not signed("azure_devops", ["pass"], basic("pass"))
    assert not signed("azure_devops", ["pass"], {"authorization": "Basic ???"})
    assert not signed("azure_devops", ["pass"], {"authorization": "Bearer pass"})
    assert not signed("azure_devops", ["pass"], {})


@pytest.mark.parametrize("platform", ["argocd", "argo_rollouts"])
def test_argo_sends_the_secret_as_a_bearer_token(platform: Platform) -> None:
    assert signed(platform, ["token"], {"authorization": "Bearer token"})
    assert not signed(platform, ["token"], {"authorization": "Bearer other"})
    assert not signed(platform, ["token"], {"authorization": "Basic token"})
    assert not signed(platform, ["token"], {})
