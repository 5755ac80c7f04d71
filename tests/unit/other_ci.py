"""The files of ``other-ci/`` contain the script ``report.sh``, because no CI system reads a second file.

``python -m tests.unit.other_ci`` writes the script into them again. Do that after a change of it.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "other-ci"
SCRIPT = (FOLDER / "report.sh").read_text(encoding="utf-8")
FILES = {
    "github": "github/action.yml",
    "gitlab": "gitlab.yml",
    "circleci": "circleci.yml",
    "azure": "azure-devops.yml",
    "argo": "argo-workflows.yml",
}
_BEGIN, _END = SCRIPT.splitlines()[0], SCRIPT.splitlines()[-1]
_BLOCK = re.compile(rf"^( *){re.escape(_BEGIN)}\n.*?^\1{re.escape(_END)}\n", re.DOTALL | re.MULTILINE)


def with_script(text: str) -> str:
    """A file with the script as it is now, in the place of the one that it has."""
    return _BLOCK.sub(lambda found: textwrap.indent(SCRIPT, found[1]), text)


def block_of(text: str) -> str:
    """The YAML block with the script: what the CI system runs. It may begin with lines of its own."""
    lines = text.splitlines()
    begin = next(n for n, line in enumerate(lines) if line.strip() == _BEGIN)
    margin = len(lines[begin]) - len(lines[begin].lstrip())
    first = begin
    while not re.search(r": \||- \|", lines[first - 1]):
        first -= 1
    end = next(
        (n for n in range(begin, len(lines)) if lines[n].strip() and not lines[n].startswith(" " * margin)), None
    )
    return textwrap.dedent("\n".join(lines[first:end]) + "\n")


if __name__ == "__main__":
    for name in FILES.values():
        path = FOLDER / name
        path.write_text(with_script(path.read_text(encoding="utf-8")), encoding="utf-8")
