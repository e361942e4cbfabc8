from dataclasses import dataclass, field

import pytest

from diffusionsat import ConfigError
from diffusionsat.config import parse


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: tuple[int, int] = (1, 2)
    name: str = "x"


@dataclass(frozen=True, kw_only=True)
class Outer:
    steps: int
    inner: Inner = field(default_factory=Inner)
    free: dict[str, int] = field(default_factory=dict)


def test_nested_dataclasses():
    made = parse(Outer, {"steps": 3, "inner": {"size": [4, 5]}, "free": {"anything": 1}}, "f.json")
    assert made == Outer(steps=3, inner=Inner(size=(4, 5)), free={"anything": 1})


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "f.json: steps is missing"),
        ({"steps": "many"}, "f.json: steps is 'many'"),
        ({"steps": 1, "stpes": 2}, "f.json: unknown key 'stpes'. Did you mean 'steps'?"),
        ({"steps": 1, "zzz": 2}, "f.json: unknown key 'zzz'. Known are: steps, inner, free."),
        ({"steps": 1, "inner": {"nmae": 2}}, "f.json: unknown key 'inner.nmae'. Did you mean 'name'?"),
        ({"steps": 1, "inner": {"size": [1]}}, "f.json: inner.size"),
    ],
)
def test_messages_name_the_place(values, says):
    with pytest.raises(ConfigError, match=says.replace("?", r"\?")):
        parse(Outer, values, "f.json")
