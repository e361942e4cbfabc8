"""Mappings (of JSON, YAML, TOML) checked against the dataclasses that the code uses.

The dataclass is the only definition: unknown keys are errors, and a message names the place, what was given
and what is allowed.
"""

import difflib
import functools
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_args

from diffusionsat.errors import ConfigError


@functools.cache
def _adapter(kind: type) -> Any:
    from pydantic import TypeAdapter  # 0.1 s, and not every command needs it

    return TypeAdapter(kind)


T = TypeVar("T")  # the syntax of 3.12 is not there yet in 3.11


def parse(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """A dataclass of a mapping.

    Args:
        kind: The dataclass; nested dataclasses are mappings.
        values: The mapping.
        where: File or option that it is from, for messages.

    Raises:
        ConfigError: If a key is unknown or missing, or a value is of another type or out of range.
    """
    from pydantic import ValidationError

    _refuse_unknown(kind, values, where, ())
    try:
        return _adapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"]) or "the whole"
        if first["type"] == "missing":
            raise ConfigError(f"{where}: {path} is missing.") from None
        raise ConfigError(f"{where}: {path} is {first['input']!r}. {first['msg']}.") from None


def _refuse_unknown(kind: Any, values: Any, where: str, path: tuple[str, ...]) -> None:
    dataclass = next((k for k in (kind, *get_args(kind)) if is_dataclass(k)), None)
    if dataclass is None or not isinstance(values, Mapping):
        return
    known = {field.name: field.type for field in fields(dataclass)}
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" Known are: {', '.join(known)}."
            raise ConfigError(f"{where}: unknown key {'.'.join((*path, str(key)))!r}.{hint}")
        _refuse_unknown(known[key], value, where, (*path, key))
