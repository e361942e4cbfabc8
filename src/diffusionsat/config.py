"""Mappings and files (JSON, TOML, YAML) checked against the dataclasses that the code uses.

The dataclass is the only definition: unknown keys are errors, and a message names the place (file and line,
key path), what was given and what is allowed.
"""

import dataclasses
import difflib
import functools
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from diffusionsat.errors import ConfigError


@functools.cache
def _adapter(kind: type) -> Any:
    from pydantic import TypeAdapter  # 0.1 s, and not every command needs it

    return TypeAdapter(kind)


T = TypeVar("T")  # the syntax of 3.12 is not there yet in 3.11
KeyPath = tuple[str | int, ...]


def parse(
    kind: type[T], values: Mapping[str, Any], where: str, lines: Mapping[KeyPath, str] | None = None
) -> T:
    """A dataclass of a mapping.

    Args:
        kind: The dataclass; nested dataclasses are mappings.
        values: The mapping.
        where: File or option that it is from, for messages.
        lines: For key paths a more exact place to name instead of ``where``.

    Raises:
        ConfigError: If a key is unknown or missing, or a value is of another type or out of range.
    """
    from pydantic import ValidationError

    def place(path: KeyPath) -> str:
        nearest = (path[:length] for length in range(len(path), 0, -1))
        return next((lines[p] for p in nearest if lines and p in lines), where)

    _refuse_unknown(kind, values, place, ())
    try:
        return _adapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        location = tuple(part for part in first["loc"] if part != "[key]")
        path = ".".join(str(part) for part in location)
        if first["type"] == "missing":
            raise ConfigError(f"{place(location)}: {path} is missing.") from None
        message = f"{first['msg'].removeprefix('Value error, ').rstrip('.')}."
        if first["type"] == "literal_error":
            allowed = re.findall(r"'([^']*)'", first["msg"])
            message += _nearest(first["input"], allowed)
        given = "" if isinstance(first["input"], Mapping) else f" is {first['input']!r}"
        what = f"{path}{given}. " if path else ""  # without one, the values do not fit together
        raise ConfigError(f"{place(location)}: {what}{message}") from None


def read(kind: type[T], file: Path, settings: Sequence[str] = ()) -> T:
    """A dataclass of a TOML or YAML file and of what is set on the command line.

    Args:
        kind: The dataclass.
        file: Ends in ``.toml``, ``.yaml`` or ``.yml``.
        settings: ``section.key=value`` each; the value is read as TOML, and as text where it is none. A
            number in the path counts the items of a list from 0.

    Raises:
        ConfigError: If the file or a setting cannot be read, or as `parse`.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}.") from None
    try:
        values, numbers = (_toml if file.suffix == ".toml" else _yaml)(text)
    except ValueError as error:
        raise ConfigError(f"{file} is damaged: {error}.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{file} holds no table of keys and values.")
    lines = {path: f"{file}:{number}" for path, number in numbers}
    for setting in settings:
        lines[_set(values, setting)] = f"--set {setting}"
    return parse(kind, values, str(file), lines)


def read_named(
    kind: type[T], name_or_path: str, known: Mapping[str, Path], settings: Sequence[str] = ()
) -> T:
    """As `read`, of a name that is known or of a file.

    Raises:
        ConfigError: If it is neither, or as `read`.
    """
    file = known.get(name_or_path, Path(name_or_path))
    if not file.is_file():
        what = kind.__name__.lower()
        raise ConfigError(f"There is no {what} {name_or_path!r}. Give a file, or one of: {', '.join(known)}.")
    return read(kind, file, settings)


def to_toml(config: Any) -> str:
    """A dataclass as TOML that `read` understands; keys without a value are left out."""
    return "\n".join(_table(dataclasses.asdict(config), "")) + "\n"


def _refuse_unknown(kind: Any, values: Any, place: Any, path: KeyPath) -> None:
    dataclass = next((k for k in (kind, *get_args(kind)) if is_dataclass(k)), None)
    if dataclass is not None and isinstance(values, (list, tuple)):
        for i, value in enumerate(values):
            _refuse_unknown(dataclass, value, place, (*path, i))
    if dataclass is None or not isinstance(values, Mapping):
        return
    known = {field.name: field.type for field in fields(dataclass)}
    for key, value in values.items():
        here = (*path, key)
        if key not in known:
            hint = _nearest(key, list(known)) or f" Known are: {', '.join(known)}."
            raise ConfigError(f"{place(here)}: unknown key {'.'.join(map(str, here))!r}.{hint}")
        _refuse_unknown(known[key], value, place, here)


def _nearest(given: Any, allowed: list[str]) -> str:
    near = difflib.get_close_matches(str(given), allowed, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


_HEADER = re.compile(r"\s*(\[\[?)\s*([\w.\"'-]+)\s*\]")
_KEY = re.compile(r"\s*([\w.\"'-]+)\s*=")


def _toml(text: str) -> tuple[Any, Iterator[tuple[KeyPath, int]]]:
    return tomllib.loads(text), _toml_lines(text)


def _toml_lines(text: str) -> Iterator[tuple[KeyPath, int]]:
    """Line of each key that stands at a line's start, counted from 1."""
    table: KeyPath = ()
    counts: dict[KeyPath, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = _parts(header[2])
            if header[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                table = (*table, counts[table])
            yield table, number
        elif key := _KEY.match(line):
            yield (*table, *_parts(key[1])), number


def _parts(dotted: str) -> KeyPath:
    return tuple(part.strip("\"'") for part in dotted.split("."))


def _yaml(text: str) -> tuple[Any, Iterator[tuple[KeyPath, int]]]:
    import yaml

    try:
        return yaml.safe_load(text), _yaml_lines(yaml.compose(text, yaml.SafeLoader), ())
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def _yaml_lines(node: Any, path: KeyPath) -> Iterator[tuple[KeyPath, int]]:
    value: Any = getattr(node, "value", None)
    if getattr(node, "id", "") == "mapping":
        for key, inner in value:
            yield (*path, key.value), key.start_mark.line + 1
            yield from _yaml_lines(inner, (*path, key.value))
    elif getattr(node, "id", "") == "sequence":
        for i, inner in enumerate(value):
            yield (*path, i), inner.start_mark.line + 1
            yield from _yaml_lines(inner, (*path, i))


def _set(values: dict[str, Any], setting: str) -> KeyPath:
    """Put one setting into the values; returns its key path."""
    dotted, equals, text = setting.partition("=")
    path: KeyPath = tuple(int(part) if part.isdecimal() else part for part in dotted.strip().split("."))
    if not equals or not all(str(part) for part in path):
        raise ConfigError(f"--set {setting}: give section.key=value.")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    inner: Any = values
    for depth, part in enumerate(path):
        above = ".".join(map(str, path[:depth]))
        if isinstance(inner, list) and not (isinstance(part, int) and part < len(inner)):
            raise ConfigError(f"--set {setting}: {above} has {len(inner)} items, counted from 0.")
        if not isinstance(inner, (list, dict)):
            raise ConfigError(f"--set {setting}: {above} is no section.")
        place: Any = part if isinstance(inner, list) else str(part)
        if depth == len(path) - 1:
            inner[place] = value
        elif isinstance(inner, dict):
            inner.setdefault(place, {})
        inner = inner[place]
    return path


def _table(values: Mapping[str, Any], name: str) -> Iterator[str]:
    """Lines of a table: plain values first, as TOML wants, then tables and lists of tables."""
    tables = {k: v for k, v in values.items() if isinstance(v, dict) and name == ""}
    lists = {k: v for k, v in values.items() if isinstance(v, (list, tuple)) and v and isinstance(v[0], dict)}
    for key, value in values.items():
        if key not in tables and key not in lists and value is not None:
            yield f"{key} = {_value(value)}"
    for key, rows in lists.items():
        for row in rows:
            yield f"\n[[{name}.{key}]]" if name else f"\n[[{key}]]"
            yield from _table(row, f"{name}.{key}")
    for key, inner in tables.items():
        yield f"\n[{key}]"
        yield from _table(inner, key)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(k))} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, (str, Path)):
        return json.dumps(str(value), ensure_ascii=False)
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)
