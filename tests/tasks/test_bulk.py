import dataclasses
import io
import json
import tarfile

import numpy as np
import pytest
import rasterio
from PIL import Image

from diffusionsat import GenerateRequest, Metadata, RasterError
from diffusionsat.geo.features import read_features
from diffusionsat.tasks import bulk


def lines(count, **properties):
    places = ([i / 10, 45 + i / 10] for i in range(count))
    return "\n".join(
        json.dumps(
            {
                "type": "Feature",
                "geometry": {"type": "Point", "coordinates": p},
                "properties": {"label": "forest", **properties},
            }
        )
        for p in places
    )


def planned(sat, text, **base):
    return bulk.plan(sat, read_features(text), GenerateRequest(**{"steps": 1} | base))


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_properties_go_before_options(sat):
    feature = {"type": "Feature", "id": "a b/../c", "geometry": {"type": "Point", "coordinates": [1, 2]}}
    feature["properties"] = {"label": "sea", "gsd": 3, "seed": 7}
    (one,), bad = planned(
        sat, json.dumps(feature), prompt="forest", seed=9, metadata=Metadata(gsd=10, date="2019")
    )
    assert not bad
    assert one.name == "a_b_c"
    assert one.request.prompt == "sea"
    assert (one.request.seed, one.index) == (7, 0)
    assert one.request.metadata == Metadata(lon=1, lat=2, gsd=3, date="2019")


def test_bad_features_are_told(sat):
    text = "\n".join(
        [
            lines(1),
            lines(1, date="2020-02-30"),
            lines(1, gsd=0),
            lines(1, seed="x"),
            lines(1, gsd=1e6),
            "{",
            lines(1),
        ]
    )
    good, bad = planned(sat, text)
    assert [p.index for p in good] == [0, 6]
    assert [index for index, _ in bad] == [1, 2, 3, 4, 5]
    assert "calendar" in bad[0][1]
    assert "gsd is 0" in bad[1][1]
    assert "seed is 'x'" in bad[2][1]
    assert "can be mapped" in bad[3][1]


def test_names_are_unique(sat):
    good, _ = planned(sat, lines(3, id="x"))
    assert [p.name for p in good] == ["x", "x-000001", "x-000002"]


def test_no_two_features_share_their_noise(sat):
    good, _ = planned(sat, lines(3))
    assert [(p.request.seed, p.index) for p in good] == [(0, 0), (0, 1), (0, 2)]


@pytest.mark.parametrize("form", ["tif", "png", "folder", "parquet", "webdataset"])
def test_a_stopped_job_goes_on_with_equal_pixels(sat, tmp_path, form, monkeypatch):
    if bulk.FORMS[form].group > 1:
        monkeypatch.setitem(bulk.FORMS, form, dataclasses.replace(bulk.FORMS[form], group=2))
    monkeypatch.setattr(bulk, "batch_size", lambda _: 3)
    if form == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    good, _ = planned(sat, lines(5))
    whole = sorted(bulk.run(sat, good, tmp_path / "whole", form))
    stopped = bulk.run(sat, good, tmp_path / "stopped", form)
    next(stopped)
    stopped.close()
    assert 1 <= len([p for p in (tmp_path / "stopped").rglob("*") if p.is_file()]) < 1 + len(whole)
    made = []
    monkeypatch.setattr(
        bulk,
        "make_batch",
        lambda sat, images, real=bulk.make_batch: made.append(len(images)) or real(sat, images),
    )
    again = sorted(bulk.run(sat, good, tmp_path / "stopped", form))
    assert [p.relative_to(tmp_path / "stopped") for p in again] == [
        p.relative_to(tmp_path / "whole") for p in whole
    ]
    assert images(again) == images(whole)
    assert len(images(whole)) == 5
    made.clear()
    list(bulk.run(sat, good, tmp_path / "stopped", form))
    assert not made


def images(paths):
    """Hashable pixels of every image in some files."""
    out = []
    for path in paths:
        if path.suffix in (".tif", ".png"):
            out.append(pixels(path).tobytes())
        elif path.suffix == ".parquet":
            import pyarrow.parquet as parquet

            out += [pixels(io.BytesIO(b)).tobytes() for b in parquet.read_table(path)["image"].to_pylist()]
        elif path.suffix == ".tar":
            with tarfile.open(path) as tar:
                out += [
                    pixels(io.BytesIO(tar.extractfile(m).read())).tobytes()
                    for m in tar
                    if m.name.endswith(".png")
                ]
    return out


def test_parquet_can_be_read_as_training_data(sat, tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from diffusionsat.data.parquet import read_samples

    good, _ = planned(sat, lines(2, gsd=3, date="2019-07", cloud_cover=10))
    (path,) = bulk.run(sat, good, tmp_path / "out", "parquet")
    first, second = read_samples(path, "made")
    assert first.metadata == Metadata(lon=0, lat=45, gsd=3, date="2019-07", cloud_cover=10)
    assert (second.key, second.label, second.caption) == ("000001", "forest", "forest")
    assert first.pixels().shape == (64, 64, 3)


def test_a_folder_of_classes_has_its_json(sat, tmp_path):
    good, _ = planned(sat, "\n".join([lines(1, label="sea/lake"), lines(1, label="森林")]))
    list(bulk.run(sat, good, tmp_path / "out", "folder"))
    index = json.loads((tmp_path / "out/index.json").read_text())
    assert [i["file"] for i in index] == ["sea_lake/000000.png", "森林/000001.png"]
    assert all(i["synthetic"] and (tmp_path / "out" / i["file"]).is_file() for i in index)


def test_overwriting_removes_the_old_jobs_files(sat, tmp_path):
    old, _ = planned(sat, lines(5))
    new, _ = planned(sat, lines(3), seed=5)
    list(bulk.run(sat, old, tmp_path / "out", "png"))
    stopped = bulk.run(sat, new, tmp_path / "out", "png", overwrite=True)
    next(stopped)
    stopped.close()
    resumed = list(bulk.run(sat, new, tmp_path / "out", "png"))
    assert images(resumed) == images(sorted(bulk.run(sat, new, tmp_path / "fresh", "png")))
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == [
        "000000.png",
        "000001.png",
        "000002.png",
    ]


def test_pngs_keep_their_place(sat, tmp_path):
    good, _ = planned(sat, lines(1))
    (path,) = bulk.run(sat, good, tmp_path / "out", "png")
    with rasterio.open(path) as file:
        assert file.res == (10, 10)


def test_numbers_beyond_all_bounds_are_told(sat):
    huge = (
        '{"type":"Feature","geometry":{"type":"Point","coordinates":[1' + "0" * 400 + ',0]},"properties":{}}'
    )
    text = "\n".join([huge, lines(1, gsd=10**400), lines(1, prompt="\ud800"), lines(1)])
    good, bad = planned(sat, text)
    assert [p.index for p in good] == [3]
    assert [index for index, _ in bad] == [0, 1, 2]


def test_another_job_is_not_written_over(sat, tmp_path):
    good, _ = planned(sat, lines(1))
    list(bulk.run(sat, good, tmp_path / "out", "png"))
    other, _ = planned(sat, lines(1), seed=5)
    with pytest.raises(RasterError, match="another job"):
        list(bulk.run(sat, other, tmp_path / "out", "png"))
    list(bulk.run(sat, other, tmp_path / "out", "png", overwrite=True))
    (tmp_path / "file").touch()
    with pytest.raises(RasterError, match="is a file"):
        list(bulk.run(sat, good, tmp_path / "file", "png"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/holiday.png").touch()
    with pytest.raises(RasterError, match="holds other files"):
        list(bulk.run(sat, good, tmp_path / "mine", "png"))
