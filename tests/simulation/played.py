"""How much was played; counted by the random stories, told at the end of the run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Played:
    """Random stories of one kind."""

    stories: int = 0
    polls: int = 0
    posts: int = 0
    kills: int = 0
    cuts: int = 0
    freezes: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{n} {what}" for what, n in vars(self).items() if n)


by_kind: dict[str, Played] = {}
now = Played()


def begin(kind: str) -> None:
    """A story of this kind begins."""
    global now  # noqa: PLW0603
    now = by_kind.setdefault(kind, Played())
    now.stories += 1
