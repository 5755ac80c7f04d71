"""The keys of facts and deployments: projects and their runs."""

from __future__ import annotations

import msgspec

JENKINS = "jenkins"


class Project(msgspec.Struct, frozen=True, order=True):
    """A job, workflow or pipeline that a CI system runs repeatedly.

    ``provider``: ``jenkins``, ``github_actions``, … ``scope``: the controller or organisation. ``name``: the full name
    of the job, or the repository. All three are empty for deployments of which only the id is known.
    """

    provider: str
    scope: str
    name: str

    @property
    def reuses_numbers(self) -> bool:
        """Whether several builds can have the same number: a Jenkins job that is created again starts at 1."""
        return self.provider == JENKINS


class Run(msgspec.Struct, frozen=True, order=True):
    """One run of a project: its ``number`` (Jenkins) or run id, as text, and the attempt."""

    project: Project
    number: str
    attempt: int = 1


GIVEN_IDS = Project("", "", "")


def jenkins_run(controller: str, job: str, number: int) -> Run:
    """The key of a Jenkins build. Builds that share a reused number have the same key but different starts."""
    return Run(Project(JENKINS, controller, job), str(number))


def run_of_id(deployment_id: str) -> Run:
    """The key of a deployment of which only the id is known."""
    return Run(GIVEN_IDS, deployment_id)
