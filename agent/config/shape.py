"""Checking that a TOML file has the tables, keys and types of :mod:`agent.config.tables`. All errors are collected."""

from __future__ import annotations

import difflib
from datetime import date, time
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
import msgspec.inspect as types

from agent.config.tables import File
from agent.model.secrets import know

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.config.problems import Problems

S = TypeVar("S", bound=msgspec.Struct)

# Wrong names that people use for ``token_file``.
_TOKEN_ITSELF = ("token", "api_token", "apitoken", "api_key", "apikey", "key", "password", "secret")
_LIKE = 0.6  # for difflib


class _ShapeError(Exception):
    """A value has the wrong type; the message says which type is expected."""


def decode(document: Mapping[str, Any], problems: Problems) -> File:
    """The document as tables. An invalid value is noted, and replaced by the default or an empty text."""
    return cast("File", _struct(_of(File), document, "", problems))


def _of(kind: type[msgspec.Struct]) -> types.StructType:
    return cast("types.StructType", types.type_info(kind))


def _struct(kind: types.StructType, table: Mapping[str, Any], key: str, problems: Problems) -> msgspec.Struct:
    fields = {field.encode_name: field for field in kind.fields}
    for name, value in table.items():
        if name not in fields:
            _note_unknown(fields, key, name, value, problems)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        place = join(key, name)
        if name in table:
            try:
                values[field.name] = _value(field.type, table[name], place, problems)
            except _ShapeError as error:
                problems.note(place, str(error))
        elif field.required:
            what = f"the table {heading(field)} is required" if _table_of(field.type) else "this key is required"
            problems.note(place, what)
        if field.required and field.name not in values:
            values[field.name] = _stand_in(field.type)
    return kind.cls(**values)


def _stand_in(kind: types.Type) -> Any:
    if isinstance(kind, types.StructType):
        return kind.cls(**{field.name: _stand_in(field.type) for field in kind.fields if field.required})
    return ""


def _value(kind: types.Type, value: Any, key: str, problems: Problems) -> Any:
    """Raises :class:`_ShapeError`."""
    match kind:
        case types.StructType():
            return _struct(kind, _one_table(value, key, problems), key, problems)
        case types.ListType(item_type=item):
            listed = _list(item, value, key, problems)
            return [_item(item, each, f"{key}[{i}]", problems) for i, each in enumerate(listed)]
        case types.DictType(value_type=item):
            if not isinstance(value, dict):
                raise _ShapeError(f"must be a table, not {_what(value)}; write it like [{key}]")
            return {name: _item(item, each, join(key, name), problems) for name, each in value.items()}
        case types.UnionType(types=members):
            return _value(_member(members, value), value, key, problems)
        case _:
            _check_scalar(kind, value, key)
            return value


def _item(kind: types.Type, value: Any, key: str, problems: Problems) -> Any:
    try:
        return _value(kind, value, key, problems)
    except _ShapeError as error:
        problems.note(key, str(error))
        return _stand_in(kind)


def _check_scalar(kind: types.Type, value: Any, key: str) -> None:
    """Raises :class:`_ShapeError`."""
    match kind:
        case types.LiteralType(values=words) if value not in words:
            listed = " or ".join(f'"{word}"' for word in words)
            raise _ShapeError(f"{value!r} is not valid here; write {listed}")
        case types.StrType() if not isinstance(value, str):
            raise _ShapeError(f"must be text in quotes, not {_what(value)}{_quoted(key, value)}")
        case types.BoolType() if not isinstance(value, bool):
            raise _ShapeError(f"must be true or false without quotes, not {_what(value)}")
        case types.IntType() if not isinstance(value, int) or isinstance(value, bool):
            raise _ShapeError(f"must be a whole number without quotes, not {_what(value)}")


def _one_table(value: Any, key: str, problems: Problems) -> Mapping[str, Any]:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        problems.note(f"[[{key}]]", f"there is only one such table; write [{key}] in single brackets")
        value = value[0]
    if not isinstance(value, dict):
        raise _ShapeError(f"must be a table, not {_what(value)}; write it like [{key}]")
    return value


def _list(item: types.Type, value: Any, key: str, problems: Problems) -> Sequence[Any]:
    if isinstance(value, list):
        return value
    if not isinstance(item, types.StructType):
        example = f'; write it like ["{value}"]' if isinstance(value, str) and value.isprintable() else ""
        raise _ShapeError(f"must be a list in brackets, not {_what(value)}{example}")
    if not isinstance(value, dict):
        raise _ShapeError(f"must be a table, not {_what(value)}; write it like [[{key}]]")
    problems.note(f"[{key}]", f"there can be several such tables; write [[{key}]] in double brackets")
    return [value]


def _member(members: Sequence[types.Type], value: Any) -> types.Type:
    """The type of a union that a value is probably meant for. TOML has no null."""
    tables = [member for member in members if isinstance(member, types.StructType)]
    others = [member for member in members if member not in tables and not isinstance(member, types.NoneType)]
    return tables[0] if tables and (isinstance(value, dict) or not others) else others[0]


# The order matters: a bool is also an int.
_KINDS = (
    (bool, "true or false"), (str, "text"), (int, "a whole number"), (float, "a number"),
    ((date, time), "a date or time"), (list, "a list"),
)  # fmt: skip


def _what(value: Any) -> str:
    return next((words for kind, words in _KINDS if isinstance(value, kind)), "a table")


def _quoted(key: str, value: Any) -> str:
    """How to write a number in quotes."""
    name = key.rpartition(".")[2]
    return (
        f'; write it like {name} = "{value}"' if isinstance(value, int | float) and not isinstance(value, bool) else ""
    )


# ---- unknown names


def _note_unknown(fields: Mapping[str, types.Field], table: str, name: str, value: Any, problems: Problems) -> None:
    key = join(table, name)
    if (file := _file_for(fields, name)) is not None:
        if isinstance(value, str):
            know(value)
        problems.settle(join(table, file))
        what = "secret" if file == "secret_file" else "token"
        advice = f'write it to a file that only the agent can read, and set {file} = "FILE"'
        problems.note(key, f"unknown key; the configuration does not contain the {what}: {advice}")
        return
    meant = _similar(name, list(fields))
    owners = " or ".join(heading(each) for each in _of(File).fields if name in _names_in(each.type))
    if meant is not None:
        problems.settle(join(table, meant))
        advice = f"did you mean {_spelt(fields[meant], table)}{f', or does it belong in {owners}' * bool(owners)}?"
    elif owners:
        advice = f"it belongs in {owners}"
    else:
        advice = f"use one of {', '.join(_spelt(field, table) for field in fields.values())}"
    problems.note(key, f"unknown {_kind(value, table)}; {advice}")


def _file_for(fields: Mapping[str, types.Field], name: str) -> str | None:
    """The key for a file with what the value of this wrong key probably is: a token or a secret."""
    name = name.lower().replace("-", "_")
    if name not in _TOKEN_ITSELF:
        return None
    files = ("api_token_file", "token_file") if "token" in name else ("token_file", "secret_file")
    return next((file for file in files if file in fields), None)


def _kind(value: Any, table: str) -> str:
    is_table = isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict))
    return "table" if is_table and not table else "key"


def _similar(name: str, known: Sequence[str]) -> str | None:
    folded = {each.replace("_", ""): each for each in known}
    asked = name.lower().replace("-", "").replace("_", "")
    beginning = [each for each in folded if len(asked) >= 3 and each.startswith(asked)]
    close = beginning or difflib.get_close_matches(asked, folded, 1, _LIKE)
    return folded[close[0]] if len(close) == 1 else None


def _table_of(kind: types.Type) -> types.StructType | None:
    """The table type of a key that contains one table or several."""
    match kind:
        case types.StructType():
            return kind
        case types.ListType(item_type=item):
            return _table_of(item)
        case types.UnionType(types=members):
            return next((found for member in members if (found := _table_of(member))), None)
        case _:
            return None


def _names_in(kind: types.Type) -> tuple[str, ...]:
    table = _table_of(kind)
    return () if table is None else tuple(field.encode_name for field in table.fields)


def heading(field: types.Field) -> str:
    """The heading of a table: ``[hivel]``, ``[[jenkins]]``."""
    name = field.encode_name
    return f"[[{name}]]" if isinstance(field.type, types.ListType) else f"[{name}]"


def _spelt(field: types.Field, table: str) -> str:
    is_table = _table_of(field.type) is not None or isinstance(field.type, types.DictType)
    return heading(field) if is_table and not table else field.encode_name


def join(table: str, key: str) -> str:
    """The key of a value: ``hivel.url``."""
    return f"{table}.{key}" if table else key
