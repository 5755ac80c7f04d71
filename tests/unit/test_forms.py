"""Every form in which branches, remotes, pull requests and merges are written, each with its source.

A source is the product with the file or page that tells its format, or a real controller that wrote it (Jenkins 2.504.3
and 2.516.2 with their plugins).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from agent.deployments import pulls
from agent.model.build import Build, Checkout
from agent.model.git import branch_name, branch_of_parameters, is_tag, pull_request_of, remote_of, remotes_of

SHA = "6dacad59e2225cb80021a8ec0f67c2f0fa6e87e2"

SEEN = "git plugin's BuildData, seen on Jenkins 2.504.3: "
SEEN_2 = "git plugin's BuildData, seen on Jenkins 2.516.2: "
CHOOSER = "git plugin (2026-08), DefaultBuildChooser.java: "
BRANCH_JOB = "git plugin (2026-08), AbstractGitSCMSource.java, SpecificRevisionBuildChooser: the head's own name; "
SPEC = "git plugin (2026-08), help of BranchSpec: "
GIT = "git 2.x: "
GERRIT = "Gerrit documentation, The refs/for namespace: "
GHPRB = "ghprb plugin (2025-03): "
GITLAB = "gitlab plugin (2026-08): "
GITEA = "Gitea 1.2x, services/pull/merge.go, getMergeMessage, and the same in Forgejo: "
GITVERSION = "GitVersion 6 (2026-08), RegexPatterns.cs and MergeMessageTests.cs: "
BORS = "bors-ng (2024-01), lib/worker/batcher/message.ex: "


class Name(NamedTuple):
    """A name, and what it means: a branch or tag, or the number of a pull request, or nothing."""

    written: str | None
    branch: str | None
    source: str
    pull: int | None = None
    tag: bool = False
    remote: str = ""
    context: dict[str, Any] = {}  # noqa: RUF012 - nobody writes it


NAMES = [
    # ---- branches behind a remote
    Name("refs/remotes/origin/main", "main", SEEN + "spec */main", remote="origin"),
    Name("refs/remotes/origin/release/3.0", "release/3.0", SEEN + "spec */release/3.0", remote="origin"),
    Name("origin/main", "main", SEEN_2 + "spec main, and what ** finds", remote="origin"),
    Name("upstream/main", "main", SEEN_2 + "two remotes, upstream and origin", remote="upstream"),
    Name("refs/remotes/company/main", "main", SEEN + "the remote is called company", remote="company"),
    Name("refs/remotes/company/release/3.0", "release/3.0", SEEN + "the remote is called company", remote="company"),
    Name("refs/remotes/mirror/release/3.0", "release/3.0", SEEN + "the second of two remotes", remote="mirror"),
    Name("remotes/origin/main", "main", GIT + "branch --all", remote="origin"),
    Name("remotes/gitlab/main", "main", GIT + "branch --all", remote="gitlab"),
    Name("gitlab/main", "main", CHOOSER + "spec main qualified by the only remote, gitlab", remote="gitlab"),
    Name("github/main", "main", SEEN + "remotes gerrit and github, spec github/main", remote="github"),
    Name("fork/main", "main", CHOOSER + "the second of two remotes", remote="fork"),
    Name("*/main", "main", SPEC + "any remote; given as a parameter", remote="*"),
    # ---- slashes below a remote belong to the branch
    Name("origin/upstream/latest", "upstream/latest", CHOOSER + "a branch with a slash", remote="origin"),
    Name("origin/origin/prod", "origin/prod", SEEN + "spec **", remote="origin"),
    Name("origin/upstream/sync", "upstream/sync", SEEN + "spec **", remote="origin"),
    Name("refs/remotes/origin/origin/prod", "origin/prod", SEEN + "specs */origin/prod, refs/heads/…", remote="origin"),
    Name("refs/remotes/origin/upstream/sync", "upstream/sync", SEEN + "spec */upstream/sync", remote="origin"),
    Name("refs/heads/origin/prod", "origin/prod", GIT + "a local branch has no remote"),
    # ---- branches that look like a commit
    Name("refs/remotes/origin/feb2026", "feb2026", SEEN + "spec */feb2026", remote="origin"),
    Name("refs/remotes/origin/cafe1234", "cafe1234", SEEN + "spec */cafe1234 and the git step", remote="origin"),
    Name("refs/remotes/origin/dec2025", "dec2025", SEEN + "the same form", remote="origin"),
    Name("origin/feb2026", "feb2026", SEEN + "spec **", remote="origin"),
    Name("origin/cafe1234", "cafe1234", CHOOSER + "spec cafe1234", remote="origin"),
    Name("refs/heads/cafe1234", "cafe1234", GIT + "a local branch"),
    Name("cafe1234", "cafe1234", BRANCH_JOB + "known by its job", context={"is_name": True}),
    Name("feb2026", "feb2026", BRANCH_JOB + "known by its job", context={"is_name": True}),
    Name("feb2026", "feb2026", "a parameter that a person fills in: a month, hardly a hash"),
    Name("dec2025", "dec2025", "a parameter that a person fills in: a month, hardly a hash"),
    Name("cafe1234", "cafe1234", CHOOSER + "the commit that it found is another one", context={"commit": SHA}),
    Name("6dacad5", None, CHOOSER + "the spec is a short hash of what it found", context={"commit": SHA}),
    Name("6dacad5", None, GIT + "rev-parse --short; nothing else is known"),
    Name(SHA, None, GIT + "rev-parse"),
    Name(f"refs/remotes/origin/{SHA}", None, GIT + "warns of branches that are called like a commit", remote="origin"),
    # ---- names that are known to be plain
    Name("origin/prod", "origin/prod", SEEN + "a branch job; its SCMRevisionAction", context={"is_name": True}),
    Name("upstream/sync", "upstream/sync", BRANCH_JOB + "recorded likewise", context={"is_name": True}),
    Name("release/3.0", "release/3.0", SEEN + "a branch job", context={"is_name": True}),
    Name("fix#42", "fix#42", SEEN_2 + "a branch job", context={"is_name": True}),
    Name("größe", "größe", SEEN_2 + "a branch job", context={"is_name": True}),
    Name("pr/71", "pr/71", BRANCH_JOB + "somebody's own branch", context={"is_name": True}),
    Name("refs/remotes/origin/main", "main", SEEN + "a checkout in it", remote="origin", context={"is_name": True}),
    Name("feature/x", "feature/x", SEEN_2 + "a branch job"),
    Name("PR-71", "PR-71", BRANCH_JOB + "heads of pull requests are called so; the job tells the number"),
    # ---- tags
    Name("refs/tags/v2.1.0", "v2.1.0", SEEN + "spec refs/tags/v2.1.0", tag=True),
    Name("refs/remotes/origin/tags/v2.1.0", "v2.1.0", SEEN + "refspec of all tags", tag=True, remote="origin"),
    Name("tags/v1.0", "v1.0", GIT + "describe --all, and a spec that rev-parse takes", tag=True),
    Name("v2.1.0", "v2.1.0", SEEN + "spec v2.1.0: a tag, but the name does not say so"),
    Name("heads/main", "main", GIT + "describe --all"),
    # ---- no branch
    Name(None, None, "git plugin (2026-08), GitSCM.java: null for a detached HEAD"),
    Name("", None, "an environment variable that is not set"),
    Name("detached", None, SEEN + "the spec is a commit"),
    Name("HEAD", None, GIT + "rev-parse --abbrev-ref HEAD"),
    Name("refs/remotes/origin/HEAD", None, GIT + "the remote's default", remote="origin"),
    Name("(HEAD detached at 6dacad5)", None, GIT + "branch"),
    Name("(no branch)", None, GIT + "branch, while it rebases"),
    Name("FETCH_HEAD", None, SEEN + "spec FETCH_HEAD, as Gerrit's and GitHub's users set it"),
    Name("**", None, SPEC + "any branch"),
    # ---- Gerrit's changes
    Name("refs/changes/11/4711/3", None, "gerrit-trigger plugin (2026-06), GerritTriggerBuildChooser.java"),
    Name("refs/changes/34/1234/1", None, SEEN + "refspec of a change"),
    Name("refs/changes/05/5/1", None, GERRIT + "the last two digits, the number, the patch set"),
    Name(
        "refs/remotes/origin/11/4711/3",
        None,
        "gerrit-code-review plugin (2025-08), AbstractGerritSCMSource.java: refs/changes below the remote",
        remote="origin",
    ),
    Name("11/4711/3", None, "gerrit-code-review plugin (2025-08): the head's name"),
    Name("12/4711/3", "12/4711/3", GERRIT + "4711 does not end in 12: somebody's branch"),
    # ---- pull requests
    Name("refs/remotes/origin/pr/71/merge", None, GHPRB + "README, refspec", 71, remote="origin"),
    Name("origin/pr/71/merge", None, GHPRB + "GhprbTrigger.java, parameter sha1", 71, remote="origin"),
    Name("origin/pr/9/head", None, GHPRB + "README, started by hand", 9, remote="origin"),
    Name("refs/remotes/origin/pr/71", None, SEEN + "refspec of refs/pull/71/merge", 71, remote="origin"),
    Name("refs/pull/71/merge", None, SEEN + "spec refs/pull/71/merge; GitHub and Azure Repos", 71),
    Name("refs/pull/71/head", None, "GitHub; gitea plugin (2026-03), GiteaSCMBuilder.java", 71),
    Name("pull/15/MERGE", None, "Gitee: log of a Jenkins build", 15),
    Name("refs/pull-requests/71/from", None, "bitbucket-branch-source plugin (2026-08), …GitSCMBuilder.java", 71),
    Name(
        "refs/remotes/origin-pull/pull/71/merge",
        None,
        "github-pullrequest plugin (2025-12), Configuration.adoc",
        71,
        remote="origin-pull",
    ),
    Name("refs/merge-requests/12/head", None, "gitlab-branch-source plugin (2026-01), GitLabSCMBuilder.java", 12),
    Name("refs/merge-requests/12/train", None, "GitLab documentation, Merge trains", 12),
    Name("merge-requests/12", None, GITLAB + "README, branch of forks: merge-requests/${gitlabMergeRequestIid}", 12),
    Name("refs/remotes/origin/merge-requests/12", None, GITLAB + "README, refspec", 12, remote="origin"),
    Name("origin/pr-71", "pr-71", SEEN + "a refspec of one's own: no form that anybody has agreed on", remote="origin"),
    Name("pr/71/fix-the-cart", "pr/71/fix-the-cart", "somebody's branch: no part of a pull request is called so"),
    Name("refs/heads/pr/71", "pr/71", GIT + "a branch whatever it is called"),
]  # fmt: skip


@pytest.mark.parametrize("form", NAMES, ids=lambda form: f"{form.written}")
def test_names(form: Name) -> None:
    assert branch_name(form.written, **form.context) == form.branch, form.source
    if not form.context.get("is_name"):
        assert pull_request_of(form.written) == form.pull, form.source
        assert is_tag(form.written) == form.tag, form.source
    assert remote_of(form.written) == form.remote or form.context.get("is_name"), form.source


class Remotes(NamedTuple):
    """The names that one checkout tells, how many URLs it has, and the branches that they mean."""

    names: tuple[str | None, ...]
    urls: int
    branches: tuple[str | None, ...]
    source: str


REMOTES = [
    Remotes(("upstream/main", "origin/main"), 2, ("main", "main"), SEEN_2 + "two remotes of one commit"),
    Remotes(("company/main",), 1, ("main",), CHOOSER + "spec main: nobody puts main below a topic"),
    Remotes(("company/stage",), 2, ("stage",), CHOOSER + "of several remotes the name is qualified"),
    Remotes(("gitlab/feature/x",), 1, ("feature/x",), CHOOSER + "spec **, the remote is called gitlab"),
    Remotes(("company/stage", "refs/remotes/company/main"), 1, ("stage", "main"), CHOOSER + "one name tells"),
    Remotes(("feature/x",), 1, ("feature/x",), "a refspec that fetches into refs/heads"),
    Remotes(("feature/x",), 2, ("feature/x",), "a refspec that fetches into refs/heads"),
    Remotes(("release/3.0",), 1, ("release/3.0",), CHOOSER + "a tag with a slash is taken as it is"),
    Remotes(("feature/main",), 2, ("feature/main",), "a refspec that fetches into refs/heads"),
    Remotes(("api/v1.2.3",), 1, ("api/v1.2.3",), CHOOSER + "a tag with a slash is taken as it is"),
    Remotes((None, "company/main"), 2, (None, "main"), "GitSCM.java: a name may be null; its siblings stay"),
    Remotes(("FETCH_HEAD", "company/main"), 2, (None, "main"), SEEN + "FETCH_HEAD beside a branch"),
    Remotes(("pr/71/merge", "11/4711/3"), 2, (None, None), "refspecs into refs/heads"),
    Remotes(("refs/tags/v1/x", "v1/main"), 2, ("v1/x", "main"), "a ref tells no remote"),
]  # fmt: skip


@pytest.mark.parametrize("form", REMOTES, ids=lambda form: f"{form.names} of {form.urls}")
def test_remotes(form: Remotes) -> None:
    remotes = remotes_of(form.names, form.urls)
    assert tuple(branch_name(name, remotes) for name in form.names) == form.branches, form.source


class Parameters(NamedTuple):
    """The parameters of a build, and the branch and pull request that they tell."""

    parameters: dict[str, str]
    branch: str | None
    pull: int | None
    source: str


PARAMETERS = [
    Parameters(
        {"sha1": "origin/pr/71/merge", "ghprbPullId": "71", "ghprbSourceBranch": "upstream/sync", "GIT_BRANCH": "x"},
        "upstream/sync",
        71,
        GHPRB + "GhprbTrigger.java",
    ),
    Parameters({"sha1": "origin/pr/71/merge"}, None, 71, GHPRB + "README, started by hand"),
    Parameters({"sha1": SHA, "ghprbPullId": "71"}, None, 71, GHPRB + "GhprbTrigger.java, cannot be merged"),
    Parameters(
        {"gitlabSourceBranch": "fix/cart", "gitlabMergeRequestIid": "12", "gitlabMergeRequestId": "9034"},
        "fix/cart",
        12,
        GITLAB + "CauseData.java; jobs that are started by hand declare them as parameters",
    ),
    Parameters(
        {"gitlabSourceBranch": "refs/tags/v1.0", "gitlabMergeRequestIid": ""},
        "v1.0",
        None,
        GITLAB + "CauseData.java, a tag is pushed",
    ),
    Parameters({"gitlabBranch": "main"}, "main", None, GITLAB + "CauseData.java, a push"),
    Parameters(
        {"GITHUB_PR_NUMBER": "71", "GITHUB_PR_SOURCE_BRANCH": "fix"},
        "fix",
        71,
        "github-pullrequest plugin (2025-12), GitHubPREnv.java",
    ),
    Parameters(
        {"GERRIT_BRANCH": "stable/2.0", "GERRIT_REFSPEC": "refs/changes/11/4711/3", "GERRIT_CHANGE_NUMBER": "4711"},
        "stable/2.0",
        None,
        "gerrit-trigger plugin (2026-06), GerritTriggerParameters.java; a change is no pull request",
    ),
    Parameters({"GERRIT_BRANCH": "FETCH_HEAD", "BRANCH": "main"}, "main", None, SEEN + "the spec is a parameter"),
    Parameters({"BRANCH": "release/3.0"}, "release/3.0", None, SEEN + "the spec is a commit, the branch a parameter"),
    Parameters({"BRANCH": "origin/release/3.0"}, "release/3.0", None, "git-parameter plugin: remote branches"),
    Parameters({"BRANCH": "*/main"}, "main", None, SPEC + "any remote"),
    Parameters({"BRANCH": "refs/pull/71/head"}, None, 71, "GitHub"),
    Parameters({"BRANCH": "feb2026"}, "feb2026", None, "a person"),
    Parameters({"BRANCH_NAME": "detached", "GIT_BRANCH": "origin/main"}, "main", None, "handed down by another job"),
    Parameters({"gitlabSourceBranch": "detached"}, None, None, "handed down by another job"),
    Parameters({"ghprbPullId": "${ghprbPullId}", "BRANCH": " "}, None, None, "a value that was never filled in"),
]  # fmt: skip


@pytest.mark.parametrize("form", PARAMETERS, ids=lambda form: " ".join(form.parameters))
def test_parameters(form: Parameters) -> None:
    assert branch_of_parameters(form.parameters)[0] == form.branch, form.source
    found = pulls.of_build(_build(parameters=form.parameters))
    assert found.numbers == (() if form.pull is None else (form.pull,)), form.source


class Message(NamedTuple):
    """A commit's message, and the pull requests whose merge it tells."""

    message: str
    numbers: tuple[int, ...]
    source: str


MESSAGES = [
    # ---- GitHub
    Message("Merge pull request #71 from acme/fix\n\nMend the cart", (71,), "GitHub; GitVersion's table has it, too"),
    Message("Merge pull request #73 from acme/n\n", (73,), "change set of the git plugin, seen on Jenkins 2.504.3"),
    Message("Mend the cart (#71)", (71,), "GitHub documentation, Squash and merge"),
    Message("Mend the cart (#71)\n\n* mend\n* mend more\n\nfixes #12", (71,), "GitHub, squashed, with its commits"),
    Message("Mend the cart (#71) (#80)", (80,), "GitHub, squashed, and picked by a request of its own"),
    Message('Revert "Mend the cart (#71)" (#80)', (80,), "GitHub, button Revert"),
    Message("Mend the cart (closes #12) (#71)", (71,), "GitHub, a title with an issue in it"),
    # ---- a squashed title with something behind
    Message("Mend the cart (#71) [skip ci]", (71,), "GitHub documentation, Skipping workflow runs"),
    Message("Mend the cart (#71) [backport 2.x]", (71,), "labels in brackets"),
    Message("Mend the cart (#71)[ci skip]", (71,), "GitLab and CircleCI documentation, Skip"),
    Message("Mend the cart (#71) ***NO_CI***", (71,), "Azure Pipelines documentation, Skipping CI"),
    Message("Mend the cart (#71) (cherry picked from commit 6dacad5)", (71,), GIT + "cherry-pick -x, on one line"),
    Message("Mend the cart (#71) (closes #12)", (71,), "GitHub documentation, Linking a pull request to an issue"),
    Message("Mend the cart (#71), closes #12", (71,), "GitHub documentation, Linking a pull request to an issue"),
    Message("Mend the cart (#71) - Fixes SHOP-12", (71,), "Jira, smart commits"),
    Message("Mend the cart (#71) SHOP-12", (71,), "Jira, keys in messages"),
    Message("Mend the cart (#71) #minor", (71,), "github-tag-action"),
    Message("Mend the cart (#71) +semver: minor", (71,), "GitVersion documentation, Commit messages"),
    Message("Mend the cart (#71) 🚀", (71,), "gitmoji"),
    Message("Mend the cart (#71) :rocket:", (71,), "gitmoji"),
    Message("Mend the cart (#71).", (71,), "a person"),
    Message("Mend the cart (#71)\r\n\r\nfixes #12", (71,), "a client on Windows"),
    # ---- GitLab
    Message(
        "Merge branch 'fix' into 'main'\n\nMend it\n\nSee merge request acme/shop!71",
        (71,),
        "GitLab documentation, Commit message templates: the default",
    ),
    Message("Merge branch 'fix'\n\nSee merge request !71", (71,), "GitLab, the reference within its own project"),
    Message("Mend it\n\nSee merge request https://gitlab.example.test/a/b/c!71\n", (71,), "GitLab, full reference"),
    Message(
        "Mend it\n\nSee merge request https://gitlab.example.test/a/b/-/merge_requests/71",
        (71,),
        "GitLab documentation, Commit message templates: variable url",
    ),
    Message("Mend it (!71)", (71,), "GitLab documentation, Commit message templates: variable local_reference"),
    # ---- Bitbucket
    Message("Merged in fix (pull request #71)\n\nMend it", (71,), "Bitbucket Cloud; Atlassian's VS Code extension"),
    Message("Merged in fix/cart (pull request #71) by ReBaZer", (71,), "ReBaZer"),
    Message(
        "Pull request #71: Mend it\n\nMerge in ACME/shop from fix to main\n\n* commit '6dacad5':\n  Mend it",
        (71,),
        GITVERSION + "Bitbucket Server 7 and Data Center",
    ),
    Message("Pull request #71\n\nMerge in ACME/shop from fix to main", (71,), GITVERSION + "Bitbucket Server 7"),
    Message(
        "Merge pull request #71 in ACME/shop from fix to main\n\n* commit '6dacad5':\n  Mend it",
        (71,),
        GITVERSION + "Bitbucket Server before 7",
    ),
    # ---- Azure Repos
    Message("Merged PR 71: Mend it", (71,), GITVERSION + "Azure Repos, squashed"),
    Message("Merge pull request 71 from fix into main", (71,), GITVERSION + "Azure Repos, not squashed"),
    # ---- Gitea, Forgejo
    Message("Merge pull request 'Mend it' (#71) from fix into main", (71,), GITEA + "of the same repository"),
    Message("Merge pull request 'Mend it' (#71) from alice/shop:fix into main", (71,), GITEA + "of a fork"),
    Message("Merge pull request 'Mend it' (#71) from <deleted>:fix into main", (71,), GITEA + "the fork is gone"),
    Message("Merge pull request 'Don't (#7) stop' (!71) from fix into main", (71,), GITEA + "with an external tracker"),
    Message("Mend it (!71)\n\nReviewed-on: https://git.example.test/a/b/pulls/71", (71,), GITEA + "squashed"),
    Message("Mend it\n\nReviewed-on: https://git.example.test/a/b/pulls/71\nReviewed-by: A <a@b.c>", (71,), GITEA),
    # ---- Gitee
    Message("!71 Mend it\nMerge pull request !71 from alice/fix", (71,), "Gitee, documentation of its API: merge"),
    Message("Merge pull request !71 from alice/fix", (71,), "Gitee, documentation of its API: merge"),
    # ---- merge bots
    Message("Merge #71\n\n71: Mend it r=alice a=bob\n\nfixes #12", (71,), BORS + "one request"),
    Message("Merge #71 #73\n\n71: Mend it r=alice a=bob\n\n73: Mend more r=alice a=bob", (71, 73), BORS + "a batch"),
    Message("Mend it (#71)\n\nCo-authored-by: A <a@b.c>\n", (71,), BORS + "use_squash_merge"),
    Message("Merge #71: Mend it", (71,), "bitcoin-core/bitcoin-maintainer-tools, github-merge.py"),
    Message("Auto merge of #71 - alice:fix, r=bob\n\nMend it", (71,), "homu (2025-05); rust-lang/bors (2026-08)"),
    Message("Rollup merge of #71 - alice:fix, r=bob\n\nMend it", (71,), "homu (2025-05), server.py"),
    # ---- no merges of a pull request
    Message("Mend the cart\n\nfixes #12", (), "GitHub: an issue"),
    Message("Mend the cart (fixes #12)", (), "GitHub: an issue"),
    Message("Revert to (#71) what it was", (), "a mention within a sentence"),
    Message("Undo (#71) and (#72) in haste", (), "mentions within a sentence"),
    Message('Revert "Mend the cart (#71)"', (), GIT + "revert"),
    Message("Revert “Mend the cart (#71)”", (), "a person, with typographic quotes"),
    Message('Revert "Mend the cart (#71)" [skip ci]', (), GIT + "revert, edited"),
    Message('Revert "Merge pull request #71 from acme/fix"', (), GIT + "revert -m 1"),
    Message("Mend the cart, which was (#71)…\n…by alice", (), "a message that was cut: nobody knows what came then"),
    Message("Merge branch 'main' into fix", (), GIT + "merge"),
    Message("Merge remote-tracking branch 'origin/pr/71' into main", (), GIT + "merge: what it was is a guess"),
    Message("see merge request acme/shop!71 and weep", (), "a mention within a sentence"),
    Message("Merge bitcoin#22626: Mend it", (), "Dash Core: a request of another repository"),
    Message("Merge #12 changes of the release", (), "a person"),
    Message("Merge pull request template into main", (), "a person"),
    Message("Try #71:\n\n", (), BORS + "a trial"),
    Message("71: Mend it", (), BORS + "the body of a batch"),
    Message(
        'Merge "Mend it" into main\n\nReviewed-on: https://review.example.test/c/shop/+/4711\nChange-Id: I6dacad5',
        (),
        GERRIT + "a change is no pull request",
    ),
]  # fmt: skip


@pytest.mark.parametrize("form", MESSAGES, ids=lambda form: form.message.partition("\n")[0])
def test_messages(form: Message) -> None:
    assert pulls.numbers_of(form.message) == form.numbers, form.source
    assert pulls.of_message(form.message) == next(iter(form.numbers), None), form.source


class Job(NamedTuple):
    """The name of a branch job, and the pull request that it is of."""

    name: str
    number: int | None
    source: str


JOBS = [
    Job("PR-71", 71, "github-branch-source plugin (2026-06), GitHubSCMSource.java; Bitbucket's and Gitea's, too"),
    Job("PR-71-head", 71, "github-branch-source plugin (2026-06), GitHubSCMSource.java: two strategies"),
    Job("PR-71-merge", 71, "github-branch-source plugin (2026-06), GitHubSCMSource.java: two strategies"),
    Job("MR-71", 71, "gitlab-branch-source plugin (2026-01), GitLabSCMSource.java"),
    Job("MR-71-merge", 71, "gitlab-branch-source plugin (2026-01), GitLabPipelineStatusNotifier.java"),
    Job("pr-71", None, "somebody's branch"),
    Job("PR-71x", None, "somebody's branch"),
    Job("11/4711/3", None, "gerrit-code-review plugin (2025-08): a change"),
]  # fmt: skip


@pytest.mark.parametrize("form", JOBS, ids=lambda form: form.name)
def test_jobs(form: Job) -> None:
    assert pulls.of_job(form.name) == form.number, form.source
    build = _build(job=f"shop/{form.name}", branch_job=True, checkouts=(_checkout(form.name),))
    assert pulls.of_build(build).numbers == (() if form.number is None else (form.number,)), form.source


@pytest.mark.parametrize("form", [form for form in NAMES if form.pull], ids=lambda form: form.written)
def test_the_ref_that_was_checked_out_tells_the_builds_pull_request(form: Name) -> None:
    assert pulls.of_build(_build(checkouts=(_checkout(form.written or ""),))).numbers == (form.pull,), form.source


def test_every_form_has_its_source() -> None:
    sources = [form.source for table in (NAMES, REMOTES, PARAMETERS, MESSAGES, JOBS) for form in table]
    assert all(len(source.strip(" :")) > 3 for source in sources)


def _build(**fields: Any) -> Build:
    return Build(**{"controller": "main", "job": "shop", "number": 7, "started_at": 0, "ended_at": 1, **fields})


def _checkout(branch: str) -> Checkout:
    return Checkout(("https://git.example.test/acme/shop.git",), (branch,), SHA)
