"""A folder of data sets whose colours say everything."""

import io
from pathlib import Path

import numpy as np
import pytest
from colours import LABELS, SIDE, paint
from PIL import Image

from diffusionsat import Metadata
from diffusionsat.evaluation.compact import RESOLUTIONS

GSDS = dict(zip(RESOLUTIONS, (0.3, 0.6, 10.0, 30.0, 300.0, 7400.0), strict=True))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder; each set has 60 rows to train and 48 to test, one of which is cloud."""
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for source, gsd in GSDS.items():
        (folder / source).mkdir()
        for split, count in (("train", 60), ("test", 48)):
            rows = []
            for i in range(count):
                label = LABELS[i % 5] if source == "eurosat_rgb" else None
                date = f"2004-{i % 12 + 1:02d}" if source == "blue_marble_2004" else None
                known = {"lon": float(rng.integers(-80, 80)), "lat": 0.0, "date": date}
                known["gsd"] = gsd * 2 ** rng.uniform(-1, 1)
                out = io.BytesIO()
                Image.fromarray(paint(Metadata(**known), label)).save(out, "PNG")
                row = {"key": f"{source}-{i}", "image": out.getvalue(), "label": label, "caption": None}
                row |= {"width": SIDE, "height": SIDE}
                cloud = 100.0 if split == "test" and i == 47 else None
                rows.append(row | known | {"cloud_cover": cloud})
            parquet.write_table(pa.Table.from_pylist(rows), folder / source / f"{split}.parquet")
    return folder
