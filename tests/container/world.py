"""Jenkins and Hivel as other machines, and the book about which builds have to arrive."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from agent.sandbox.hivel import Fault, LocalHivel
from agent.sandbox.jenkins import LocalJenkins
from agent.sandbox.server import LocalServer
from tests.container.machine import StoryError, wait

if TYPE_CHECKING:
    from collections.abc import Iterator

JOB = "deploy/shop"
HIVEL_TOKEN = "hivel-token-of-the-container-test"
JENKINS_TOKEN = "jenkins-token-of-the-container-test"

CONFIG = """\
[hivel]
url = "{hivel}"

[[jenkins]]
name = "main"
url = "{jenkins}"
username = "hivel-agent"
poll_interval = "1s"
since = 2020-01-01

[environments]
# prod = "live"

[delivery]
interval = "500ms"
backoff_initial = "500ms"
backoff_max = "2s"
"""


class World:
    """They live on when the container is rebooted."""

    def __init__(self, jenkins: LocalServer, local: LocalJenkins, hivel: LocalServer, received: LocalHivel) -> None:
        self._local = local
        self._received = received
        self._expected: set[str] = set()
        self.hivel = hivel
        # The questions of `init`, by a part of each, in their order; "" takes what is proposed.
        self.answers = (
            ("Hivel address", hivel.url),
            ("Hivel API key", HIVEL_TOKEN),
            ("Jenkins address", jenkins.url),
            ("Controller name", "main"),
            ("Jenkins user", "hivel-agent"),
            ("API token of this user", JENKINS_TOKEN),
            ("Report builds that ended since", "2020-01-01"),
            ("Contact for administrators", ""),
            ("Rules to use", ""),
            ("Environment of these deployments", ""),
            ("Use these rules?", ""),
        )
        self.config = CONFIG.format(hivel=hivel.url, jenkins=jenkins.url)
        local.add_job(JOB)

    def builds(self, count: int) -> None:
        """So many builds end in Jenkins."""
        for number in self._local.add_builds(JOB, count, repo="https://git.example.test/acme/shop.git"):
            self.expect(f"main:{JOB}#{number}")

    def expect(self, deployment_id: str) -> None:
        """An event that has to arrive, too."""
        self._expected.add(deployment_id)

    @property
    def expected(self) -> int:
        return len(self._expected)

    def environment_of_newest(self) -> str | None:
        return self._received.deployments()[-1].event.environment

    def arrived(self, patience_s: float = 120.0) -> str:
        """Wait until every build is at Hivel. Raises :class:`StoryError` if one is not, or if there are others."""
        took = wait(f"all {self.expected} events are at Hivel", lambda: self._at_hivel() >= self._expected, patience_s)
        if strangers := self._at_hivel() - self._expected:
            raise StoryError(f"Hivel has events of no build: {sorted(strangers)}")
        return f"{self.expected} of {self.expected} at Hivel after {took:.1f} s"

    @contextmanager
    def answers_get_lost(self) -> Iterator[None]:
        """Hivel stores what it gets, and nobody hears of it."""
        self._received.fault(Fault(kind="silent", stored=True))
        try:
            yield
        finally:
            self._received.clear_faults()

    def is_stored(self) -> bool:
        """Whether every build is at Hivel, as Hivel sees it."""
        return self._at_hivel() >= self._expected

    def sent_twice(self) -> int:
        """How many events were sent more than once; Hivel counts each once."""
        return sum(deployment.times_posted > 1 for deployment in self._received.deployments())

    def _at_hivel(self) -> set[str]:
        return {str(deployment.event.deployment_id) for deployment in self._received.deployments()}


@contextmanager
def world() -> Iterator[World]:
    """Both listen on this network's loopback address."""
    with ExitStack() as stack:
        local = LocalJenkins(token=JENKINS_TOKEN)
        received = LocalHivel(HIVEL_TOKEN)
        stack.callback(received.close)
        jenkins = stack.enter_context(LocalServer(local.app))
        hivel = stack.enter_context(LocalServer(received.app))
        yield World(jenkins, local, hivel, received)
