"""The packages that the agent needs, with their versions and licenses, as the installed packages state them."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from importlib.metadata import Distribution

OURS = "hivel-jenkins-agent"
# Scripts that are part of this package and not installed as packages.
VENDORED = (("htmx", "4.0.1", "0BSD"),)
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_OF_EXTRA = re.compile(r";.*\bextra\s*==")
_LONGEST = 100


class Package(msgspec.Struct, frozen=True):
    """``license`` is an SPDX expression where the package has one."""

    name: str
    version: str
    license: str


@cache
def packages() -> tuple[Package, ...]:
    """All packages that are needed, directly or indirectly, and what is vendored. It reads files: use a thread."""
    found: dict[str, Package] = {}
    names = [OURS]
    while names:
        name = names.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in found:
            continue
        try:
            of = distribution(name)
        except PackageNotFoundError:  # needed only on other systems
            continue
        found[key] = Package(of.name, of.version, _license(of))
        names += [
            each[0]
            for line in of.requires or ()
            if (each := _NAME.match(line)) is not None and _OF_EXTRA.search(line) is None
        ]
    vendored = (Package(*each) for each in VENDORED)
    return (*(found[key] for key in sorted(found)), *vendored)


def _license(of: Distribution) -> str:
    expression, text = (_first(of, name) for name in ("License-Expression", "License"))
    classes = [
        each.rpartition(" :: ")[2]
        for each in of.metadata.get_all("Classifier") or ()
        if each.startswith("License :: ") and not each.endswith("OSI Approved")
    ]
    is_short = "\n" not in text and "::" not in text and len(text) <= _LONGEST
    return expression or (text if is_short else "") or ", ".join(classes) or "see the package"


def _first(of: Distribution, name: str) -> str:
    return str((of.metadata.get_all(name) or [""])[0]).strip()
