"""The ``tree`` parameter of Jenkins' remote API: parse it, and reduce JSON to the requested properties.

Grammar and meaning follow Stapler's ``NamedPathPruner`` and the answers of a recorded Jenkins 2.516.2:

* ``a,b[c,d]``: the property ``a`` and, of every object in ``b``, the properties ``c`` and ``d``;
* ``b[c]{0,5}`` a half-open range of a list, ``{,5}`` from its start, ``{5,}`` to its end, ``{5}`` one element;
* ``*`` all other properties;
* an object always keeps its ``_class``, and an unknown property is left out without an error;
* an object without brackets has only its ``_class``;
* an element of a list that cannot be exported is left out without an error.

Known limit: objects whose keys are data (``buildsByBranchName``, ``monitorData``) are reduced like others.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# Deeper nesting causes a stack overflow in the real Jenkins, and HTTP 500 in both.
MAX_DEPTH: Final = 100
_MAX_INT: Final = 2**31 - 1
_TOKEN: Final = re.compile(r"[,\[\]{}]|[^,\[\]{}]+", re.DOTALL)
_NUMBER: Final = re.compile(r"[0-9]{1,10}")
# Types that are not reduced. Looked up by type, because most values have one of them.
_PLAIN: Final = frozenset({str, int, float, bool, type(None)})
MISSING: Final[Any] = object()


class TreeError(ValueError):
    """The expression is not valid. Jenkins answers it with HTTP 500 and an HTML page."""


class ExportError(Exception):
    """A property cannot be computed. In a list the element is left out, otherwise the answer is HTTP 500."""


class Exported(ABC):
    """An object whose properties are computed when they are requested."""

    json_class: str | None

    @abstractmethod
    def names(self) -> Iterable[str]:
        """The names of all its properties."""

    @abstractmethod
    def value(self, name: str) -> Any:
        """The value of the property, which can contain other :class:`Exported`, or :data:`MISSING`.

        Raises :class:`ExportError`.
        """


class Tree:
    """A parsed expression. Applying it does not copy or change the value."""

    __slots__ = ("_asked", "_rest", "children", "start", "stop")

    def __init__(self) -> None:
        self.children: dict[str, Tree] = {}
        self.start: int = 0
        self.stop: int | None = None
        self.settle()

    def apply(self, value: Any) -> Any:
        """The reduced value: the requested properties of an object, the range of a list, or any other value itself."""
        if isinstance(value, Exported):
            return self._object(value.json_class, value.names, value.value)
        if isinstance(value, dict):
            return self._object(value.get("_class"), value.keys, lambda name: value.get(name, MISSING))
        if isinstance(value, list):
            return self._list(value[self.start : self.stop])
        return value

    def settle(self) -> None:
        """Prepare what :meth:`apply` needs for every object. Call it when the expression is complete."""
        # `_class` is not a property: it does not depend on the expression.
        self._asked = [(name, tree) for name, tree in self.children.items() if name != "_class"]
        self._rest = self.children.get("*")

    def _list(self, elements: list[Any]) -> list[Any]:
        out = []
        for element in elements:
            with suppress(ExportError):  # the range includes elements that are left out
                out.append(self.apply(element))
        return out

    def _object(
        self, json_class: str | None, names: Callable[[], Iterable[str]], get: Callable[[str], Any]
    ) -> dict[str, Any]:
        out = {} if json_class is None else {"_class": json_class}
        rest = self._rest
        asked = self._asked if rest is None else self._all(names(), rest)
        for name, subtree in asked:
            value = get(name)
            if type(value) in _PLAIN:
                out[name] = value
            elif value is not MISSING:
                out[name] = subtree.apply(value)
        return out

    def _all(self, names: Iterable[str], rest: Tree) -> list[tuple[str, Tree]]:
        return [(name, self.children.get(name, rest)) for name in names if name != "_class"]


def parse(text: str) -> Tree:
    """Parse an expression. Raises :class:`TreeError`."""
    tokens = _Tokens(_TOKEN.findall(text))
    tree = _list(tokens, 0)
    tokens.expect(None)
    return tree


class _Tokens:
    def __init__(self, tokens: list[str]) -> None:
        self._rest: Iterator[str] = iter(tokens)
        self.next: str | None = next(self._rest, None)

    def take(self) -> str | None:
        taken, self.next = self.next, next(self._rest, None)
        return taken

    def accept(self, token: str) -> bool:
        if self.next != token:
            return False
        self.take()
        return True

    def expect(self, token: str | None) -> None:
        taken = self.take()
        if taken != token:
            raise TreeError(f"expected {token or 'the end'}, found {taken or 'the end'}")

    def name(self) -> str:
        taken = self.take()
        if taken is None or taken in ",[]{}":
            raise TreeError(f"expected a name, found {taken or 'the end'}")
        return taken

    def number(self) -> int:
        taken = self.take() or ""
        if not _NUMBER.fullmatch(taken) or int(taken) > _MAX_INT:
            raise TreeError(f"expected a number, found {taken or 'the end'}")
        return int(taken)


def _list(tokens: _Tokens, depth: int) -> Tree:
    if depth > MAX_DEPTH:
        raise TreeError("nested too deep")
    tree = Tree()
    more = True
    while more:
        name = tokens.name()
        # If a name is given twice, the last one is used, as in Stapler.
        tree.children[name] = _node(tokens, depth)
        more = tokens.accept(",")
    tree.settle()
    return tree


def _node(tokens: _Tokens, depth: int) -> Tree:
    tree = Tree()
    if tokens.accept("["):
        tree = _list(tokens, depth + 1)
        tokens.expect("]")
    if tokens.accept("{"):
        tree.start, tree.stop = _range(tokens)
        tokens.expect("}")
    return tree


def _range(tokens: _Tokens) -> tuple[int, int | None]:
    if tokens.accept(","):
        return 0, tokens.number()
    start = tokens.number()
    if tokens.next == "}":
        return start, start + 1
    tokens.expect(",")
    if tokens.next == "}":
        return start, None
    stop = tokens.number()
    if stop < start:
        raise TreeError("a range that ends before it starts")
    return start, stop
