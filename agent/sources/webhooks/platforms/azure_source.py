"""Azure DevOps: repository, branch and commit, where a body has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.sources.webhooks.values import filled

if TYPE_CHECKING:
    from agent.model.part import Part

_GITHUB_API = "https://api.github.com/repos/"


def of_run(resource: Part) -> dict[str, str]:
    """Of a stage or run: the repository, if the pipeline has one only. Older bodies have none.

    ``build``: what the API says about the run. Azure DevOps does not send it.
    """
    urls = {repository.text("url") for repository in resource.items("repositories")}
    repository = {"repo_url": _page(urls.pop()) if len(urls) == 1 else ""}
    return repository | filled(of_build(resource.at("build")))


def of_build(build: Part) -> dict[str, str]:
    """Of ``build.complete``: 1.0 has branch and commit in one text, 2.0 has all."""
    ref, commit = build.text("sourceBranch"), build.text("sourceVersion")
    if not ref:
        system, _, rest = build.text("sourceGetVersion").partition(":")
        ref, _, commit = rest.rpartition(":") if system in ("LG", "GH") else ("", "", "")
    trigger = build.at("triggerInfo")
    return {
        "repo_url": _page(build.text("repository.url")) or _on_github(build.at("repository")),
        "branch": _branch(trigger.member("pr.sourceBranch").scalar() or ref),
        "commit_hash": commit,
        "pr_number": trigger.member("pr.number").scalar() or _pull_request(ref),
    }


def of_release(resource: Part) -> dict[str, str]:
    """Of a classic release: branch and commit of the build that is its primary artifact, in newer bodies."""
    for release in (resource.at("deployment.release"), resource.at("release")):
        for artifact in release.items("artifacts"):
            if artifact.member("isPrimary").scalar() == "true":
                definition = artifact.at("definitionReference")
                return {
                    "branch": _branch(definition.text("branch.id")),
                    "commit_hash": definition.text("sourceVersion.id"),
                }
    return {}


def _page(url: str) -> str:
    """The address of a repository; for GitHub, bodies have that of the API."""
    return f"https://github.com/{url.removeprefix(_GITHUB_API)}" if url.startswith(_GITHUB_API) else url


def _on_github(repository: Part) -> str:
    """The API has only the name of a repository on GitHub."""
    name = repository.text("id")
    return f"https://github.com/{name}" if repository.text("type") == "GitHub" and name.count("/") == 1 else ""


def _branch(ref: str) -> str:
    """``main`` of ``refs/heads/main``; "" for the ref of a pull request, which is not a branch."""
    for prefix in ("refs/heads/", "refs/tags/"):
        if ref.startswith(prefix):
            return ref.removeprefix(prefix)
    return "" if ref.startswith("refs/") else ref


def _pull_request(ref: str) -> str:
    number = ref.removeprefix("refs/pull/").partition("/")[0] if ref.startswith("refs/pull/") else ""
    return number if number.isascii() and number.isdigit() else ""
