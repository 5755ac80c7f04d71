"""A demo that stays serves the pages until it is interrupted, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.integration.support import wait_until

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_serves_the_pages_until_it_is_interrupted(tmp_path: Path, ending: signal.Signals) -> None:
    environment = {"PATH": os.environ["PATH"], "COLUMNS": "100", "PYTHONIOENCODING": "utf-8", "TMPDIR": str(tmp_path)}
    said = tmp_path / "said"
    with said.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "agent", "demo", "--stay"], stdout=stream, stderr=subprocess.STDOUT, env=environment
        )
    try:
        wait_until(lambda: "Ctrl-C" in said.read_text() or process.poll() is not None, "the pages are announced")
        found = re.search(r"(?m)^Pages: +(http://127\.0\.0\.1:\d+)\nPassword: +(\S+)$", said.read_text())
        assert found is not None, said.read_text()
        with httpx.Client(base_url=found[1], trust_env=False, timeout=120, headers={"Origin": found[1]}) as client:
            assert client.post("/login", data={"password": found[2]}).status_code == 303
            # Weeks of deployments are found, and some of them are refused.
            wait_until(lambda: _counts(client)["delivered"] > 200 and _counts(client)["failed"] >= 6, "all are settled")
        process.send_signal(ending)
        assert process.wait(120) == 0, said.read_text()
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in said.read_text()
    with pytest.raises(httpx.ConnectError):
        httpx.get(found[1], trust_env=False)
    assert [path.name for path in tmp_path.iterdir()] == ["said"]


def _counts(client: httpx.Client) -> dict[str, int]:
    counts: dict[str, int] = client.get("/now.json").json()["counts"]
    return counts
