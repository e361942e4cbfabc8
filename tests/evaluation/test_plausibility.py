"""The audit against a model whose opinion is known: one that is right under one candidate alone."""

import math

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine

from diffusionsat import ConfigError, Metadata, RasterError
from diffusionsat.data.sensors import display
from diffusionsat.evaluation.plausibility import AuditRequest, alarms, audit, seen, verdicts
from diffusionsat.metadata import NUMBERS
from diffusionsat.noise_keys import normal

IMAGE = np.random.default_rng(0).integers(0, 256, (68, 64, 3)).astype(np.uint8)
MONTH = NUMBERS.index("month")


class Opinion:
    """Wraps networks: the estimate of the noise is off by how far the month is from July, gsd from 10 m."""

    def __init__(self, networks, x0):
        self.networks, self.x0, self.multiple = networks, x0, networks.multiple

    def text(self, prompts):
        return self.networks.text(prompts)

    def predict(self, latents, time, text, numbers, residuals=None):
        sigma = (time / (1 - time))[:, None, None, None]
        x = latents * (1 + sigma)  # flow
        noise = (x - self.x0) / sigma
        apart = (numbers[:, MONTH] - 7).abs()
        month = torch.where(apart.isnan(), 2.0, torch.minimum(apart, 12 - apart))
        gsd = (numbers[:, 2].log10() - 1).abs().nan_to_num(nan=0.5)
        wrong = noise * (1 + 0.1 * (month + gsd))[:, None, None, None]
        return wrong - (x - sigma * wrong)  # velocity: noise - x0


@pytest.fixture
def knowing(sat, monkeypatch):
    x0 = sat.encode(IMAGE[2:66][None])
    monkeypatch.setattr(sat, "networks", Opinion(sat.networks, x0))
    monkeypatch.setattr(sat, "encode", lambda pixels: x0)
    return sat


def test_the_model_s_opinion_is_told(knowing):
    claimed = Metadata(date="2021-02", gsd=300.0)
    lines = audit(knowing, IMAGE, AuditRequest(metadata=claimed, fields=("season", "gsd"), noises=3))
    by = {(line["field"], line["candidate"]): line for line in lines}
    assert len(by) == len(lines) == (1 + 12) + (1 + 14)
    for month in range(1, 13):
        off = 0.1 * (min(abs(month - 7), 12 - abs(month - 7)) + math.log10(300) - 1)
        power = np.mean(
            [
                (normal(0, i, "initial", 0, channels=4, rows=range(16), columns=range(16)) ** 2).mean()
                for i in range(3)
            ]
        )
        assert by["season", f"2021-{month:02d}"]["error"] == pytest.approx(off**2 * power, rel=1e-3)
    assert by["season", "2021-07"]["excess"] < 0 < by["season", "2021-02"]["excess"]
    assert [line["candidate"] for line in lines if line["claimed"]] == ["2021-02", "300 m"]
    season, gsd = verdicts(lines)
    assert (season["most_plausible"], season["claimed"], season["unlikely"]) == ("2021-07", "2021-02", True)
    assert (gsd["most_plausible"], gsd["rank"], gsd["unlikely"]) == ("10 m", 10, True)


def test_a_plausible_claim_is_not_flagged(knowing):
    claimed = Metadata(date="2021-08", gsd=10.0)
    season, gsd = verdicts(audit(knowing, IMAGE, AuditRequest(metadata=claimed, fields=("season", "gsd"))))
    assert (season["rank"] in (2, 3), season["unlikely"]) == (True, False)
    assert (gsd["rank"], gsd["unlikely"]) == (1, False)


def test_alarms_are_counted_over_real_images(knowing):
    true = [Metadata(date=f"2021-{month:02d}", gsd=10.0) for month in (7, 8, 1, 7)]
    done = []
    request = AuditRequest(fields=("season", "gsd", "place"), noises=2, sigma=(1.0,))
    (season,) = alarms(knowing, [IMAGE] * 4, true, request, lambda *told: done.append(told))
    assert done[-1] == (4, 4)
    # The model finds July plausible: the true January is an alarm, and so is the January that 8 is told.
    assert (season["field"], season["n"]) == ("season", 4)  # all have one gsd, and none a place
    assert (season["false_alarms"], season["found_lies"]) == (0.25, 0.25)
    assert season["true_preferred"] == 0.75


def test_nothing_is_claimed(sat):
    lines = audit(sat, IMAGE, AuditRequest(fields=("gsd",), noises=2, sigma=(1.0,)))
    assert not any(line["claimed"] or line["unlikely"] for line in lines)
    (said,) = verdicts(lines)
    assert said["candidates"] == 14
    assert "claimed" not in said
    again = audit(sat, IMAGE, AuditRequest(fields=("gsd",), noises=2, sigma=(1.0,)))
    assert lines == again


def test_what_cannot_be(sat):
    for request, said in (
        (AuditRequest(fields=("weather",)), "Give some of season, gsd, place"),
        (AuditRequest(sigma=(0.0,)), "noise levels above 0"),
        (AuditRequest(noises=1), "noises is 1"),
    ):
        with pytest.raises(ConfigError, match=said):
            audit(sat, IMAGE, request)
    with pytest.raises(ConfigError, match="at least 8"):
        audit(sat, IMAGE[:4], AuditRequest())


def test_a_raster_is_seen_as_it_is_shown(tmp_path, caplog):
    counts = np.random.default_rng(0).integers(1, 6000, (4, 520, 300)).astype(np.uint16)
    counts[:, 100, 101] = 0
    form = {"driver": "GTiff", "count": 4, "height": 520, "width": 300, "dtype": "uint16", "nodata": 0}
    grid = Affine(10, 0, 500_000, 0, -10, 5_000_000)
    with rasterio.open(tmp_path / "a.tif", "w", **form, crs="EPSG:32632", transform=grid) as file:
        file.write(counts)
        file.descriptions = ("B02", "B03", "B04", "B08")
        file.scales = (1e-4,) * 4
        file.update_tags(ACQUISITIONDATETIME="2021-07-01")
    pixels, said = seen(tmp_path / "a.tif")
    assert "300 x 512" in caplog.text
    colours = counts[[2, 1, 0], 4:516].transpose(1, 2, 0)
    there = colours > 0
    np.testing.assert_array_equal(pixels[there], display(colours * 1e-4, there)[there])
    near = display(colours * 1e-4, there)[[96, 97, 97], [100, 100, 101]]  # of two by two pixels the known
    np.testing.assert_array_equal(pixels[96, 101], np.rint(near.mean(0)))
    assert "0.0 % of it has no value" in caplog.text
    assert (said.date, round(said.lon), round(said.gsd)) == ("2021-07-01", 9, 10)
    with rasterio.open(
        tmp_path / "b.tif", "w", **form | {"count": 1}, crs="EPSG:32632", transform=grid
    ) as file:
        file.write(counts[:1])
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.write(np.zeros((4, 512, 300), np.uint16), window=((4, 516), (0, 300)))
    with pytest.raises(RasterError, match="no value in its middle"):
        seen(tmp_path / "a.tif")
    with pytest.raises(RasterError, match="none of which is known"):
        seen(tmp_path / "b.tif")
