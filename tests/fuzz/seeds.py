"""Valid input for each target, to begin with: recorded answers, and examples of what people write."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

DATA = Path(__file__).parents[1] / "data"
JENKINS = DATA / "recorded-jenkins"
_LARGEST = 40_000

_REPORT = {
    "provider": "jenkins", "job": "deploy/shop", "build_number": 12, "status": "SUCCESS", "environment": "production",
    "build_url": "https://jenkins.example.test/job/deploy/job/shop/12/", "stage": "Deploy", "pr_numbers": [7, 71],
    "repo_url": "https://github.com/acme/shop.git", "branch": "origin/main", "commit_hash": "ab" * 20,
    "image": "shop:1", "start_time": "2026-11-23T12:00:00Z", "end_time": 1_795_435_200_000, "given": ["environment"],
}  # fmt: skip
_OTHERS = [
    {"provider": "github_actions", "run": "acme/shop/123", "status": "failure", "environment": "staging",
     "repo_url": "git@github.com:acme/shop.git", "branch": "refs/heads/main", "pr_number": "7"},
    {"provider": "other", "deployment_id": "main:deploy/shop#12", "status": "anything", "environment": "production",
     "repo_url": "https://git.example.test/a/b", "branch": "main", "end_time": "Mon, 23 Nov 2026 12:00:00 GMT"},
]  # fmt: skip
_TEXTS = [
    "https://user:secret@github.com/acme/shop.git", "ssh://git@[::1]:22/a/b", "refs/remotes/origin/pr/71/merge",
    "https://jenkins.example.test/job/a/job/b%2Fc/12/", "Merge pull request #71 from acme/x",
    "See merge request a/b!12",
    "2026-11-23T12:00:00+01:00", "Mon, 23 Nov 2026 12:00:00 GMT", "30d", "re:^(?P<env>[a-z]+)-(a+)+$", "**/deploy-*",
    "{params.ENV}|{branch}", "localhost,.example.test,10.0.0.0/8,[::1]:8080,fe80::/10", "http://a:b@proxy:3128",
]  # fmt: skip
_HIVEL = [
    (200, "application/json", "", '{"success": true}'),
    (409, "application/json", "", '{"error": "already exists"}'),
    (429, "application/json", "120", "{}"),
    (302, "text/html", "", "<html>"),
    (400, "application/json", "Mon, 23 Nov 2026 12:00:00 GMT", '{"message": "deployment_id already exists"}'),
]
_HEADERS = [
    "X-GitHub-Event: deployment_status\nX-GitHub-Delivery: 72d3162e\nX-Hub-Signature-256: sha256=757107ea",
    "X-Gitlab-Event: Deployment Hook\nIdempotency-Key: 1\nX-Gitlab-Token: plain",
    "webhook-id: 1\nwebhook-timestamp: 1795000000\nwebhook-signature: v1,g0hM9SsE= v1a,AAAA",
    "circleci-event-type: job-completed\ncircleci-signature: v1=734cc62f,v2=aa",
    "Authorization: Basic aGl2ZWw6c2VjcmV0",
    "Authorization: Bearer token",
]
_CONFIGURATION = """
[hivel]
url = "https://hivel.example.test"
token_file = "token"
[[jenkins]]
name = "main"
url = "https://jenkins.example.test/"
roots = ["deploy"]
[[deployment]]
job = "re:^deploy-(?P<env>.*)$"
environment = "{env}"
[outbox]
path = "outbox.db"
keep_delivered = "30d"
[delivery]
per_minute = 60
[repositories]
libraries = ["github.com/acme/*"]
"""


@cache
def seeds(target: str) -> tuple[bytes, ...]:
    """Of one of ``targets.TARGETS``."""
    match target:
        case "report" | "spooled":
            return tuple(json.dumps(each).encode() for each in (_REPORT, *_OTHERS))
        case "delivered":
            return tuple(path.read_bytes() for path in sorted((DATA / "webhooks").glob("*/*.json")))
        case "headers" | "texts":
            return tuple(text.encode() for text in (_HEADERS if target == "headers" else _TEXTS))
        case "hivel":
            return tuple(
                (status - 100).to_bytes(2, "big") + f"{kind}\n{retry}\n\n\n{body}".encode()
                for status, kind, retry, body in _HIVEL
            )
        case "configuration":
            return (_CONFIGURATION.encode(),)
        case _:
            return _recorded(target)


def _recorded(target: str) -> tuple[bytes, ...]:
    patterns = {
        "jobs": ["root*.json"],
        "builds": ["jobs/*.json", "tree/*.json"],
        "build": ["builds/*.json", "2.504.3/c*/**/*.json"],
        "executors": ["computer.json"],
        "overview": ["pipeline-overview/*.json", "2.504.3/stages/**/*overview*.json"],
        "wfapi": ["wfapi/*.json", "2.504.3/stages/**/*wfapi*.json"],
    }
    found = [path for pattern in patterns[target] for path in sorted(JENKINS.glob(pattern))]
    return tuple(body for path in found if len(body := path.read_bytes()) < _LARGEST)
