import math
import re

import pytest

from diffusionsat.metrics.catalogue import METRICS

WAYS = {"lower": "lower is better", "higher": "higher is", "one": "1 is best", "level": "level is best"}
UNITS = {
    "": "no unit|without unit",
    "squared features": "squared units of the features",
    "squared images": "squared units of the images",
    "images": "in units of the images",
    "km": "kilometres",
    "the period's": "in units of the period",
}


@pytest.mark.parametrize("name", METRICS)
def test_docstring_says_what_the_table_says(name):
    metric = METRICS[name]
    text = re.sub(r"\s+", " ", metric.function.__doc__)
    assert "Source: " in text
    assert WAYS[metric.better] in text
    assert re.search(UNITS.get(metric.unit, metric.unit), text)
    low, high = metric.range
    assert low < high
    for end in (low, high):
        if math.isfinite(end):
            assert re.search(rf"(?<![\w.-]){end:.0f}\b", text)
