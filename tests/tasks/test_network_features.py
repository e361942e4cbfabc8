"""Features against the network called by hand, for both families."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffusionsat import ConfigError, DiffusionSat, Metadata
from diffusionsat.data.sources import Source
from diffusionsat.noise_keys import normal
from diffusionsat.tasks.features import (
    FeaturesRequest,
    block_names,
    default_blocks,
    denoising_network,
    features,
    features_of,
)

SIGMAS = (0.25, 2.0)
UNKNOWN = Metadata()


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (64, 128, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def pub(published):
    return DiffusionSat.from_pretrained(published, device="cpu", precision="fp32")


def by_hand(sat, image, block, sigma, metadata=UNKNOWN, seed=0):
    """What the block gives when the network is called with one image and one level."""
    x0 = sat.encode(image[None])
    noise = normal(
        seed, 0, "initial", 0, channels=x0.shape[1], rows=range(x0.shape[2]), columns=range(x0.shape[3])
    )
    scale = 1 + sigma if sat.config.prediction == "flow" else (1 + sigma**2) ** 0.5
    heard = []
    handle = (
        denoising_network(sat).get_submodule(block).register_forward_hook(lambda m, i, o: heard.append(o))
    )
    with torch.inference_mode():
        numbers = torch.tensor([metadata.numbers], dtype=torch.float32)
        time = torch.tensor([sat.schedule.time(sigma)])
        sat.networks.predict(
            (x0 + sigma * torch.from_numpy(noise)) / scale, time, sat.networks.text([""]), numbers
        )
    handle.remove()
    (output,) = heard
    return (output[0] if isinstance(output, tuple) else output)[0].numpy()


@pytest.mark.parametrize("family", ["compact", "published"])
def test_maps_are_those_of_the_network(family, sat, image, request):
    model = sat if family == "compact" else request.getfixturevalue("pub")
    told = Metadata(lon=7.0, lat=47.0, gsd=10.0)
    blocks = (*default_blocks(model), block_names(model)[1])
    found = features(model, image, FeaturesRequest(metadata=told, sigma=SIGMAS, blocks=blocks))
    assert list(found.maps) == [f"{block}@{sigma:g}" for block in blocks for sigma in SIGMAS]
    for block in blocks:
        for sigma in SIGMAS:
            values = found.maps[f"{block}@{sigma:g}"]
            np.testing.assert_allclose(values, by_hand(model, image, block, sigma, told), atol=2e-4)
            np.testing.assert_allclose(found.pooled[f"{block}@{sigma:g}"], values.mean((1, 2)), rtol=1e-4)
            assert values.shape[1:] == tuple(
                side // found.strides[f"{block}@{sigma:g}"] for side in (64, 128)
            )


def test_levels_seeds_and_conditions_are_told_apart(sat, image):
    def of(**options):
        return features(sat, image, FeaturesRequest(blocks=("up.3",), **options)).maps["up.3@0.25"]

    plain = of()
    np.testing.assert_array_equal(plain, of())
    np.testing.assert_allclose(plain, of(sigma=(3.0, 0.25)), atol=1e-5)  # whatever else is looked at
    for other in ({"seed": 1}, {"prompt": "a river"}, {"metadata": Metadata(gsd=3.0)}):
        assert np.abs(plain - of(**other)).max() > 1e-3, other
    clean = features(sat, image, FeaturesRequest(blocks=("up.3",), sigma=(0,))).maps["up.3@0"]
    also = features(sat, image, FeaturesRequest(blocks=("up.3",), sigma=(0,), seed=9)).maps["up.3@0"]
    np.testing.assert_array_equal(clean, also)  # without noise there is no seed


def test_any_size_is_continued_at_its_border(sat, image):
    odd = image[:61, :45]
    found = features(sat, odd, FeaturesRequest(blocks=("up.3", "middle.1")))
    whole = features(
        sat, np.pad(odd, [(0, 3), (0, 3), (0, 0)], mode="edge"), FeaturesRequest(blocks=("up.3", "middle.1"))
    )
    for name, values in found.maps.items():
        stride = found.strides[name]
        assert values.shape[1:] == (-(-61 // stride), -(-45 // stride))
        np.testing.assert_array_equal(values, whole.maps[name][:, : values.shape[1], : values.shape[2]])


def test_what_cannot_be(sat, image):
    for request, said in (
        (FeaturesRequest(blocks=("up.99",)), "has no block 'up.99'. It has down.0"),
        (FeaturesRequest(blocks=("embed",)), "'embed' gives no map"),
        (FeaturesRequest(sigma=(-1.0,)), "noise levels from 0"),
        (FeaturesRequest(sigma=()), "noise levels from 0"),
        (FeaturesRequest(seed=-1), "seed is -1"),
    ):
        with pytest.raises(ConfigError, match=said):
            features(sat, image, request)
    with pytest.raises(ConfigError, match="Give uint8"):
        features(sat, image / 255)


def test_a_data_set(sat, tmp_path):
    import io

    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    rows, images = [], []
    for i, side in enumerate((32, 32, 40, 32)):
        images.append(np.random.default_rng(i).integers(0, 256, (side, side, 3)).astype(np.uint8))
        out = io.BytesIO()
        Image.fromarray(images[-1]).save(out, "PNG")
        row = {"key": f"k{i}", "image": out.getvalue(), "width": side, "height": side, "label": "Forest"}
        rows.append(
            row | {"lon": 7.0, "lat": 47.0, "gsd": 10.0, "cloud_cover": 0.0, "date": "2020", "caption": None}
        )
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    source = Source(tmp_path, split="test")
    request = FeaturesRequest(blocks=("up.3",), sigma=SIGMAS)
    found = list(features_of(sat, source, request))
    assert [(row["key"], row["frame"], row["label"]) for row in found] == [
        (f"k{i}", 0, "Forest") for i in range(4)
    ]
    first = features(sat, images[0], request).pooled
    for name, vector in first.items():
        np.testing.assert_allclose(found[0][name], vector, atol=1e-5)
    known = next(features_of(sat, source, request, known=True))
    told = features(
        sat,
        images[0],
        FeaturesRequest(blocks=("up.3",), sigma=SIGMAS, metadata=source.record(0).frames[0].metadata),
    )
    np.testing.assert_allclose(known["up.3@2"], told.pooled["up.3@2"], atol=1e-5)
    assert np.abs(known["up.3@2"] - found[0]["up.3@2"]).max() > 1e-4
