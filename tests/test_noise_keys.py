import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from diffusionsat import ConfigError
from diffusionsat.noise_keys import normal


def draw(rows, columns, seed=1, image=0, purpose="initial", step=0):
    return normal(seed, image, purpose, step, channels=4, rows=rows, columns=columns)


@given(st.integers(-40, 40), st.integers(-40, 40), st.integers(1, 40), st.integers(1, 40))
def test_a_window_is_cut_from_the_plane(top, left, height, width):
    plane = draw(range(-48, 96), range(-48, 96))
    window = draw(range(top, top + height), range(left, left + width))
    np.testing.assert_array_equal(
        window, plane[:, top + 48 : top + 48 + height, left + 48 : left + 48 + width]
    )


def test_is_standard_normal():
    noise = draw(range(128), range(128)).ravel()
    assert noise.dtype == np.float32
    assert stats.kstest(noise, "norm").pvalue > 0.01


@pytest.mark.parametrize("other", [{"seed": 2}, {"image": 1}, {"purpose": "step"}, {"step": 1}])
def test_every_part_of_the_key_matters(other):
    one, two = draw(range(64), range(64)), draw(range(64), range(64), **other)
    assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.03


def test_neighbouring_blocks_differ():
    noise = (
        draw(range(-16, 32), range(-16, 32)).reshape(4, 3, 16, 3, 16).transpose(1, 3, 0, 2, 4).reshape(9, -1)
    )
    assert np.abs(np.corrcoef(noise) - np.eye(9)).max() < 0.15


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, True, "1"])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(ConfigError, match="whole number from 0"):
        draw(range(1), range(1), seed=seed)


GOLDEN = [
    [[0.052272047847509384, -0.7315348982810974], [-0.8637531995773315, 1.196739673614502]],
    [[1.8324882984161377, -0.6875720620155334], [-1.4689439535140991, -0.9608613848686218]],
]


def test_noise_never_changes():
    """Same seed, same pixels, also after an update: these numbers are for good."""
    noise = normal(7, 3, "initial", 2, channels=2, rows=range(15, 17), columns=range(-1, 1))
    np.testing.assert_array_equal(noise, np.array(GOLDEN, np.float32))
