import io

import numpy as np
import pytest
from PIL import Image

from diffusionsat import DatasetError, Metadata
from diffusionsat.data.captions import PHRASES, caption, in_words
from diffusionsat.data.crops import draw
from diffusionsat.data.parquet import read_samples
from diffusionsat.data.sources import held_out


def encoded(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def compass(side):
    """An image whose red grows to the east and whose green grows to the south."""
    ramp = np.arange(side, dtype=np.uint8)
    return np.stack(
        [np.tile(ramp, (side, 1)), np.tile(ramp[:, None], (1, side)), np.zeros((side, side), np.uint8)], -1
    )


def many(known, side=128, size=64, count=200):
    pixels, rng = compass(side), np.random.default_rng(0)
    metadata = Metadata(**known)
    crops = [draw(metadata, side, side, size, rng) for _ in range(count)]
    return [(crop.cut(pixels), crop.metadata(metadata)) for crop in crops]


def orientation(square):
    red, green = square[..., 0].astype(int), square[..., 1].astype(int)
    return tuple(
        np.sign(
            [
                red[0, -1] - red[0, 0],
                red[-1, 0] - red[0, 0],
                green[0, -1] - green[0, 0],
                green[-1, 0] - green[0, 0],
            ]
        )
    )


def test_orientations_keep_the_metadata_true():
    as_taken, mirrored = (1, 0, 0, 1), (-1, 0, 0, 1)
    assert len({orientation(s) for s, _ in many({"gsd": 1})}) == 8
    assert {orientation(s) for s, _ in many({"gsd": 1, "lon": 5, "lat": 50})} == {as_taken, mirrored}
    assert {orientation(s) for s, _ in many({"gsd": 500, "lon": 5, "lat": 50})} == {as_taken}


def test_a_crop_knows_its_own_place_and_gsd():
    for square, metadata in many({"gsd": 500, "lon": 179.9, "lat": 50}):
        factor = metadata.gsd / 500
        assert factor in (1, 2)
        column, row = (
            square[..., 0].mean() - 63.5,
            square[..., 1].mean() - 63.5,
        )  # of the centre, from the image's
        assert metadata.lat == pytest.approx(50 - row * 500 / 111_320, abs=0.005)
        east = (metadata.lon - 179.9 + 180) % 360 - 180
        assert east == pytest.approx(column * 500 / 111_320 / np.cos(np.radians(50)), abs=0.01)


def test_crops_without_gsd_or_place():
    assert all(m == Metadata() for _, m in many({}))
    assert {m.lat for _, m in many({"lat": 5.0, "gsd": 1.0})} == {5.0}


def test_captions_vary_and_keep_the_test_words_out():
    rng = np.random.default_rng(0)
    texts = {caption("", rng, source="eurosat_rgb", label="Forest", month=7) for _ in range(300)}
    assert len(texts) > 20
    assert any("July" in t for t in texts)
    every = (
        " ".join(phrase for phrases in PHRASES.values() for phrase in phrases)
        .lower()
        .replace(",", " ")
        .split()
    )
    assert not {"woods", "wheat", "suburb", "suburban", "motorway"} & set(every)


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({}, ""),
        ({"lon": 7.44, "lat": -46.951}, "at 7.44 E 46.95 S"),
        ({"lat": 3, "gsd": 0.3}, "at 3.00 N, 0.3 m per pixel"),
        (
            {"gsd": 7413, "cloud_cover": 12.4, "date": "2018-07"},
            "7413 m per pixel, 12 percent clouds, July 2018",
        ),
        ({"lon": -0.5, "date": "2018-07-09"}, "at 0.50 W, 9 July 2018"),
    ],
)
def test_numbers_in_words(known, words):
    assert in_words(Metadata(**known).numbers) == words


def test_a_sentence_of_the_source_is_used():
    rng = np.random.default_rng(0)
    assert caption("A port.", rng, source="s", label="x") == "A port."
    assert caption("", rng, source="s") == ""


def test_a_tenth_of_the_places_is_held_out():
    cells = [(lon, lat) for lon in range(-180, 180, 4) for lat in range(-60, 60, 4)]
    assert np.mean([held_out("s", "k", *cell) for cell in cells]) == pytest.approx(0.1, abs=0.02)
    assert all(held_out("s", "k", lon + 0.2, lat) == held_out("t", "l", lon + 0.9, lat) for lon, lat in cells)
    assert np.mean([held_out("s", str(k), None, 5.0) for k in range(2000)]) == pytest.approx(0.1, abs=0.02)


def test_parquet_of_images_and_sequences(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    image = encoded(compass(16))
    known = {"key": "a", "lon": 1.0, "lat": 2.0, "label": "x", "caption": None}
    frame = {
        "image": image,
        "format": "png",
        "bands": ["red", "green", "blue"],
        "date": "2020",
        "gsd": 10.0,
        "cloud_cover": 0.25,
    }
    rows = [known | {"image": image, "gsd": 5.0, "cloud_cover": 25.0, "date": None}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "single.parquet")
    frames = [frame, frame | {"bands": ["nir"]}, frame | {"date": "", "cloud_cover": None}]
    parquet.write_table(pa.Table.from_pylist([known | {"frames": frames}]), tmp_path / "sequence.parquet")
    (one,) = read_samples(tmp_path / "single.parquet", "s")
    assert one.metadata == Metadata(lon=1, lat=2, gsd=5, cloud_cover=25)
    np.testing.assert_array_equal(one.pixels(), compass(16))
    first, second = read_samples(tmp_path / "sequence.parquet", "s")
    assert first.metadata == Metadata(lon=1, lat=2, gsd=10, cloud_cover=25, date="2020")
    assert second.metadata == Metadata(lon=1, lat=2, gsd=10)
    assert (first.key, second.key) == ("a/0", "a/2")
    with pytest.raises(DatasetError, match="is no file"):
        list(read_samples(tmp_path / "absent.parquet", "s"))
