"""Reads values out of JSON from other systems, with messages that name the place of a wrong value."""

from __future__ import annotations

from dataclasses import dataclass
from types import NoneType

_KINDS: dict[type, str] = {dict: "an object", list: "a list", str: "text", bool: "true or false", NoneType: "null"}


@dataclass(frozen=True)
class Part:
    """A value within the JSON, and its path for messages. Members of a missing value are missing too.

    The methods that read raise :class:`ValueError` with the path if the value has another type.
    """

    value: object
    where: str

    @property
    def is_missing(self) -> bool:
        """Whether the value is null or not there."""
        return self.value is None

    def at(self, path: str) -> Part:
        """The value at a path such as ``status.operationState``."""
        part = self
        for name in path.split("."):
            part = part.member(name)
        return part

    def member(self, name: str) -> Part:
        """A member by its name, which may contain dots."""
        where = f"{self.where}.{name}" if self.where else name
        if self.value is None:
            return Part(None, where)
        if not isinstance(self.value, dict):
            raise self.is_not("an object")
        return Part(self.value.get(name), where)

    def text(self, path: str) -> str:
        """The text at a path; "" if it is missing."""
        part = self.at(path)
        if part.value is None or isinstance(part.value, str):
            return part.value or ""
        raise part.is_not("text")

    def number(self, path: str) -> str:
        """The whole number at a path, as text; "" if it is missing. A number in a text is accepted too."""
        part = self.at(path)
        if part.value is None or (isinstance(part.value, str) and part.value.isascii() and part.value.isdigit()):
            return part.value or ""
        if isinstance(part.value, bool) or not isinstance(part.value, int):
            raise part.is_not("a whole number")
        return str(part.value)

    def items(self, path: str) -> list[Part]:
        """The members of the list at a path; empty if it is missing."""
        part = self.at(path)
        if part.value is None:
            return []
        if not isinstance(part.value, list):
            raise part.is_not("a list")
        return [Part(value, f"{part.where}[{index}]") for index, value in enumerate(part.value)]

    def scalar(self) -> str:
        """The value as text. Argo accepts numbers and booleans in place of a text."""
        if isinstance(self.value, bool):
            return str(self.value).lower()
        if self.value is None or isinstance(self.value, str | int | float):
            return "" if self.value is None else str(self.value)
        raise self.is_not("text")

    def is_not(self, wanted: str) -> ValueError:
        """The error that this value has another type than ``wanted``."""
        return ValueError(f"{self.where or 'the JSON'} is {_KINDS.get(type(self.value), 'a number')}, not {wanted}")
