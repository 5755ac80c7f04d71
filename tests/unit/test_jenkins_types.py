"""The types of Jenkins' answers can be used by many threads at once from the beginning."""

from __future__ import annotations

import subprocess
import sys

FIRST_USE = """
import sys, threading
from agent.sources.jenkins.answers import Answer, Builds, Computers, Items
sys.setswitchinterval(1e-6)
begin = threading.Barrier(16)
def use():
    begin.wait()
    Answer("page", b'{"jobs":[{"fullName":"a","jobs":[]}]}', {}).decode(Items)
    Answer("page", b'{"computer":[{"executors":[{"currentExecutable":{"url":"a"}}]}]}', {}).decode(Computers)
    Answer("page", b'{"builds":[{"number":1,"actions":[{}]}]}', {}).decode(Builds)
threads = [threading.Thread(target=use) for _ in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_the_first_answers_may_come_to_many_threads_at_once() -> None:
    for _ in range(5):
        assert subprocess.run([sys.executable, "-c", FIRST_USE], check=False).returncode == 0
