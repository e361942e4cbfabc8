import re
from dataclasses import dataclass, field
from typing import Literal

import pytest

from diffusionsat import ConfigError
from diffusionsat.config import parse, read, to_toml


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


@dataclass(frozen=True, kw_only=True)
class Source:
    name: str
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Section:
    kind: Literal["muon", "adamw"] = "muon"
    rate: float = 1e-3
    sizes: dict[int, float] = field(default_factory=lambda: {64: 1.0})
    sources: tuple[Source, ...] = ()
    absent: int | None = None


@dataclass(frozen=True, kw_only=True)
class Tree:
    first: Section = field(default_factory=Section)
    second: Section = field(default_factory=Section)


TOML = """# a comment
[first]
kind = "adamw"
sizes = { 64 = 0.5, 128 = 0.5 }

[[first.sources]]
name = "a = b"
[[first.sources]]
name = "c"
weight = 2

[second]
rate = 3
"""
YAML = """first:
  kind: adamw
  sizes: {64: 0.5, 128: 0.5}
  sources:
    - name: a = b
    - name: c
      weight: 2
second:
  rate: 3
"""
MEANS = Tree(
    first=Section(
        kind="adamw", sizes={64: 0.5, 128: 0.5}, sources=(Source(name="a = b"), Source(name="c", weight=2.0))
    ),
    second=Section(rate=3.0),
)


@pytest.fixture(params=["x.toml", "x.yaml"])
def file(request, tmp_path):
    path = tmp_path / request.param
    path.write_text(TOML if path.suffix == ".toml" else YAML)
    return path


def test_files_and_settings(file):
    assert read(Tree, file) == MEANS
    settings = ("second.kind=adamw", "second.absent = 4", "first.sources.1.weight=7", "first.sizes={32=1}")
    changed = read(Tree, file, settings)
    assert changed.second == Section(kind="adamw", rate=3.0, absent=4)
    assert changed.first.sources[1] == Source(name="c", weight=7.0)
    assert changed.first.sizes == {32: 1.0}
    assert read(Tree, file, ("first.sources.0.name=plain words",)).first.sources[0].name == "plain words"


def test_what_is_written_is_read_again(file, tmp_path):
    again = tmp_path / "again.toml"
    again.write_text(to_toml(read(Tree, file)))
    assert read(Tree, again) == MEANS


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        (
            "adamw",
            "adam",
            (3, 2),
            "first.kind is 'adam'. Input should be 'muon' or 'adamw'. Did you mean 'adamw'?",
        ),
        ("weight", "wieght", (10, 7), "unknown key 'first.sources.1.wieght'. Did you mean 'weight'?"),
        ("rate", "zzz", (13, 9), "unknown key 'second.zzz'. Known are: kind, rate, sizes, sources, absent."),
        ("3\n", '"much"\n', (13, 9), "second.rate is 'much'"),
    ],
)
def test_messages_name_file_and_line(file, old, new, line, says):
    file.write_text(file.read_text().replace(old, new))
    number = line[0] if file.suffix == ".toml" else line[1]
    with pytest.raises(ConfigError, match=re.escape(f"{file}:{number}: {says}")):
        read(Tree, file)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("second.kind=adam", "--set second.kind=adam: second.kind is 'adam'"),
        ("second.rat=1", "--set second.rat=1: unknown key 'second.rat'. Did you mean 'rate'?"),
        ("second.rate.x=1", "--set second.rate.x=1: second.rate is no section."),
        ("first.sources.2.name=x", "first.sources has 2 items, counted from 0."),
        ("second", "--set second: give section.key=value."),
    ],
)
def test_messages_name_the_setting(file, setting, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        read(Tree, file, (setting,))


def test_a_damaged_file(tmp_path):
    for name, text in (("x.toml", "[first\n"), ("x.yaml", "first: [1\n")):
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match="is damaged"):
            read(Tree, tmp_path / name)
    with pytest.raises(ConfigError, match="cannot be read"):
        read(Tree, tmp_path / "absent.toml")
