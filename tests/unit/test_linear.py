"""Whoever names a job, a branch or a repository must not make the agent think for long: every parser is linear.

Each parser reads texts of 200,000 characters in a process of its own that may use 20 seconds of the processor. A linear
one needs one or two for all of them together. One that grows with the square needs minutes for a single one. So what
decides is how the work grows, not how fast the machine is.
"""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

SECONDS = 20
LENGTH = 200_000

# What is repeated, and what may stand before and behind it. In these the parsers see beginnings and ends of something.
PROGRAM = """
import sys
from agent.deployments import checkouts, pulls, urls
from agent.model import git, names, times
from agent.sources.jenkins import raw

LENGTH = int(sys.argv[2])
PARSERS = {
    "build_of_url": names.build_of_url,
    "environment_in_name": names.environment_in_name,
    "https_form": urls.https_form,
    "plain": urls.plain,
    "path_of": urls.path_of,
    "repository_of_page": urls.repository_of_page,
    "is_same": lambda text: urls.is_same(text, text + "x"),
    "without_credentials": git.without_credentials,
    "branch_name": git.branch_name,
    "pull_request_of": git.pull_request_of,
    "of_job": pulls.of_job,
    "of_page": pulls.of_page,
    "numbers_of": pulls.numbers_of,
    "library": checkouts._LIBRARY_NAME.search,
    "url_credentials": lambda text: raw._URL_CREDENTIALS.sub("", text),
    "number_in_words": raw._IN_WORDS.search,
    "svn": raw._SVN_LAYOUT.fullmatch,
    "parse_http_date": times.parse_http_date,
    "parse_retry_after": lambda text: times.parse_retry_after(text, 0),
}
TOKENS = (
    "/", "//", ".git", "/.git", "/job/a", "/job/", "job/", "@", "a@", ":", "a://", "//a:", "a://b:", "-", "_", ".",
    "a", "A", "aA", "0", "1,", "#1", "#1 ", " ", "\\t", "\\n", "\\r", "(", "(#1)", "(#1) ", "(a) ", "[a] ",
    "SHOP-1 ", ":a: ", "#a ", "***", "***a*** ", "+semver: ", "!", "!1", "Merge #1", " #1", "' (", " into ", "refs/",
    "refs/heads/", "remotes/", "pull/1/", "/pull/1", "/pulls/", "/tree/a", "/-/", "/branches/", "/trunk", "/tags/",
    "/projects/a/repos", "/_git", "/_git/a", "lib", "-lib", "/lib", "lib.git/", "prod", "See merge request ", "é",
    "Reviewed-on: https://", "https://a/", "[", "]", "?", "\\\\", "%2F", "v3/",
)
AROUND = (("https://h/a", "x"), ("git@h:a", "/"), ("Merge pull request 1 from ", "\\nx"), ("Title (#1)", "x "))
parse = PARSERS[sys.argv[1]]
for token in TOKENS:
    for before, behind in AROUND:
        parse(before + token * (LENGTH // len(token)) + behind)
"""
PARSERS = [line.split('"')[1] for line in PROGRAM.splitlines() if line.startswith('    "') and '": ' in line]


def _within_bounds() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))


@pytest.mark.parametrize("parser", PARSERS)
def test_a_parser_of_what_others_write_is_linear(parser: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, parser, str(LENGTH)],
        preexec_fn=_within_bounds, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{parser} took more than {SECONDS} s of the processor, or: {done.stderr}"
