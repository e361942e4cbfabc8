import numpy as np
import pytest

from diffusionsat import GenerateRequest, Metadata
from diffusionsat.data.parquet import Sample
from diffusionsat.errors import ConfigError, DatasetError
from diffusionsat.evaluation import sampling
from diffusionsat.evaluation.sampling import central, centrals, maker, rows
from diffusionsat.tasks.generate import make_batch

TEMPLATE = GenerateRequest(size=(64, 64), seed=3, steps=2, guidance=1.0)
ASKED = [("a river" if i % 2 else "a forest", Metadata(gsd=10.0 + i)) for i in range(70)]  # more than a batch


def test_rows_are_clear_and_a_function_of_the_seed(data):
    every = rows(data, "eurosat_rgb")
    assert len(every) == 47  # one of 48 is cloud
    some = rows(data, "eurosat_rgb", count=20, seed=1)
    assert [s.key for s in some] == [s.key for s in rows(data, "eurosat_rgb", count=20, seed=1)]
    assert [s.key for s in some] != [s.key for s in rows(data, "eurosat_rgb", count=20, seed=2)]
    assert len(rows(data, "eurosat_rgb", split="train", count=1000)) == 60
    with pytest.raises(DatasetError, match="is no file"):
        rows(data, "eurosat")


def test_the_central_square():
    pixels = np.arange(12 * 10 * 3, dtype=np.uint8).reshape(12, 10, 3) // 2
    np.testing.assert_array_equal(central(pixels, 4, 1), pixels[4:8, 3:7])
    blocks = pixels[2:10, 1:9].reshape(4, 2, 4, 2, 3).mean((1, 3))
    np.testing.assert_allclose(central(pixels, 4, 2), blocks, atol=0.51)


def test_metadata_tell_the_gsd_of_the_square(monkeypatch):
    sides = {"large": 260, "middle": 255, "small": 64}
    monkeypatch.setattr(Sample, "pixels", lambda self: np.zeros((sides[self.key], 300, 3), np.uint8))
    samples = [Sample(key=k, source="s", encoded=b"", metadata=Metadata(gsd=0.5)) for k in sides]
    squares, metadata = centrals(samples, 64)
    assert squares.shape == (3, 64, 64, 3)
    assert [m.gsd for m in metadata] == [2.0, 1.0, 0.5]
    with pytest.raises(DatasetError, match="s/small is 64 pixels small; 128 are asked for"):
        centrals(samples, 128)


def test_images_do_not_depend_on_how_many_are_made(sat, monkeypatch):
    shapes = []

    def record(sat, images):
        shapes.append(len(images))
        return make_batch(sat, images)

    monkeypatch.setattr(sampling, "make_batch", record)
    make = maker(sat, TEMPLATE)
    images = make(ASKED, "job")
    assert images.shape == (70, 64, 64, 3)
    np.testing.assert_array_equal(make(ASKED[:66], "job"), images[:66])
    assert set(shapes) == {64}  # else a larger network's pixels would depend on the number
    alone = sat.generate(*ASKED[0], size=(64, 64), seed=3, steps=2, guidance=1.0).pixels
    np.testing.assert_allclose(images[0].astype(float), alone, atol=1)


def test_every_image_has_noise_of_its_own(sat):
    images = maker(sat, TEMPLATE)([ASKED[0]] * 65, "job")
    assert len(np.unique(images.reshape(65, -1), axis=0)) == 65


def test_a_job_goes_on_where_it_was_stopped(sat, tmp_path):
    def stop(done, of):
        assert of == 70
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        maker(sat, TEMPLATE, tmp_path, stop)(ASKED, "job")
    kept = tmp_path / "job/0000000.npz"
    with np.load(kept) as held:
        marked = held["pixels"]
    marked[0] = 7  # to see that it is taken and not made anew
    np.savez(kept, pixels=marked)
    done = []
    images = maker(sat, TEMPLATE, tmp_path, lambda *told: done.append(told))(ASKED, "job")
    assert done == [(64, 70), (70, 70)]
    assert (images[0] == 7).all()
    np.testing.assert_array_equal(images[1:], maker(sat, TEMPLATE)(ASKED, "job")[1:])


def test_a_folder_of_other_images_is_refused(sat, tmp_path):
    make = maker(sat, TEMPLATE, tmp_path)
    make(ASKED[:1], "job")
    make(ASKED[:1], "job")
    make(ASKED[1:2], "another job")
    with pytest.raises(DatasetError, match="images of another model or of other requests"):
        make(ASKED[1:2], "job")
    with pytest.raises(DatasetError, match="images of another model or of other requests"):
        maker(sat, GenerateRequest(size=(64, 64), seed=4, steps=2), tmp_path)(ASKED[:1], "job")


def test_a_request_that_cannot_be(sat):
    with pytest.raises(ConfigError, match="width is 65"):
        maker(sat, GenerateRequest(size=(65, 64)))(ASKED[:1], "job")
