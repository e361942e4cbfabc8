import pytest
import torch

from diffusionsat import ConfigError
from diffusionsat.metrics.seams import seam_ratio

RNG = torch.Generator().manual_seed(0)


def test_by_hand():
    """A ramp of 1 a column with a step of 3 before column 2: 3 / 1; rows do not change."""
    row = torch.tensor([0.0, 1, 4, 5, 6])
    image = row.expand(1, 2, 4, 5)
    assert seam_ratio(image, [], [2]).tolist() == [3]
    assert seam_ratio(image, [], [2, 3]).tolist() == [2]
    assert seam_ratio(image, [], [1]).tolist() == pytest.approx([1 / ((3 + 1 + 1) / 3)])


def test_directions_are_compared_with_their_own_kind():
    """Steps of 5 down and 1 across, none at a border larger than elsewhere; then each seam by its length."""
    ramp = 5 * torch.arange(6.0)[:, None] + torch.arange(9.0)
    assert seam_ratio(ramp[None, None], [3], [4]).tolist() == pytest.approx([1])
    ramp[:, 4:] += 1  # 6 steps of 2 for 1; the 9 steps down stay 5
    assert seam_ratio(ramp[None, None], [3], [4]).tolist() == pytest.approx(
        [(9 * 5 + 6 * 2) / (9 * 5 + 6 * 1)]
    )


def test_tiles_of_different_brightness_are_seen_and_a_smooth_image_is_not():
    image = torch.nn.functional.avg_pool2d(torch.rand(2, 3, 132, 132, generator=RNG), 5, stride=1)
    borders = [30, 62, 93]
    plain = seam_ratio(image, borders, borders)
    tiled = image.clone()
    tiled[0, :, 30:62] += 0.1
    scores = seam_ratio(tiled, borders, borders)
    assert scores[0] > plain[0] + 0.05
    assert scores[1] == plain[1]
    assert (plain - 1).abs().max() < 0.15


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([], [], "No window border"),
        ([0], [], "border at 0 is not inside 4 pixels"),
        ([], [5], "border at 5 is not inside 5 pixels"),
        ([1, 2, 3], [], "no elsewhere"),
    ],
)
def test_bad_borders(rows, columns, message):
    with pytest.raises(ConfigError, match=message):
        seam_ratio(torch.zeros(1, 1, 4, 5), rows, columns)
