"""Figures of words that must not hang on the order of a set."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the extra [eval] is not installed")

from diffusionsat.evaluation.words import measure


def test_chance_is_the_same_to_the_last_bit_in_every_process():
    """Sets of texts come in another order in each; sums in another order differ in their last bits."""
    rng = np.random.default_rng(0)
    names = [f"class {i}" for i in range(23)]
    wanted, said = (rng.choice(names, 501) for _ in range(2))
    cases = [
        SimpleNamespace(source="set", label=str(label), place=str(i % 7)) for i, label in enumerate(wanted)
    ]
    seen = SimpleNamespace(features=lambda network: None)
    evidence = SimpleNamespace(
        asked=SimpleNamespace(cases=cases),
        probes=[
            SimpleNamespace(
                name="p", network="n", classes={"set": names}, labels=lambda f, labels, rows: said
            )
        ],
        made=seen,
        real=seen,
        clip=None,
    )
    (line,) = measure(evidence).tables["words"]
    shares = [((wanted == name).mean(), (said == name).mean()) for name in sorted(names)]
    assert line["read_by_chance"] == sum(a * b for a, b in shares)
