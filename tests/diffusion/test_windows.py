import itertools
import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusionsat import Cancelled, ConfigError
from diffusionsat.diffusion.canvas import Canvas, solve_on_disk
from diffusionsat.diffusion.schedules import karras
from diffusionsat.diffusion.solvers import SOLVERS
from diffusionsat.diffusion.windows import Window, plan, windowed
from diffusionsat.noise_keys import normal

SIGMAS = tuple(karras(3, 0.1, 10.0).tolist())


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 24), st.data())
def test_windows_cover_the_canvas_and_their_weights_sum_to_one(height, width, window, data):
    overlap = data.draw(st.integers(0, window - 1))
    cover = plan(height, width, window, overlap)
    assert cover == plan(height, width, window, overlap)
    total, owned = np.zeros((height, width)), np.zeros((height, width), int)
    for i, w in enumerate(cover.windows):
        assert (len(w.rows), len(w.columns)) == (min(window, height), min(window, width))
        weights = cover.weights(i)
        assert weights.shape == (len(w.rows), len(w.columns))
        assert (weights > 0).all()
        total[w.slices] += weights
        owned[cover.tile(i).slices] += 1
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert (owned == 1).all()
    tile = cover.tile(data.draw(st.integers(0, len(cover) - 1)))
    share = [set(w.rows) & set(tile.rows) and set(w.columns) & set(tile.columns) for w in cover.windows]
    assert cover.touching(tile) == [i for i, some in enumerate(share) if some]
    for starts, length in ((cover.rows.starts, height), (cover.columns.starts, width)):
        steps = np.diff(starts)
        assert starts[-1] + min(window, length) == length
        assert (steps > 0).all()
        assert (steps <= window - overlap).all()


def test_few_windows_suffice():
    assert plan(10, 10, 16, 8).windows == [Window(range(10), range(10))]
    assert [w.rows.start for w in plan(100, 1, 40, 10).windows] == [0, 30, 60]
    assert len(plan(2745, 2745, 64, 16)) == 57**2


def scene(rows, columns):
    """What a place looks like, smooth, of any window: (2, rows, columns)."""
    r, c = np.meshgrid(np.array(rows), np.array(columns), indexing="ij")
    return torch.from_numpy(np.stack([np.sin(r / 9 + c / 17), np.cos(r / 23 - c / 7)])).float()


def of_place(x, sigma, windows):
    """Exact for normal data about the scene, pixel by pixel."""
    means = torch.stack([scene(w.rows, w.columns) for w in windows])
    return means + (x - means) / (1 + sigma**2)


def of_context(x, sigma, windows):
    """Sees a window as a whole, so that neighbours disagree where they overlap."""
    return of_place(x, sigma, windows) + 0.3 * torch.tanh(x.mean((2, 3), keepdim=True)) * x.std() ** 0


def start(rows, columns):
    return normal(7, 0, "initial", 0, channels=2, rows=rows, columns=columns) * np.float32(SIGMAS[0])


def in_memory(denoise_window, cover, solver, batch=4):
    x = torch.from_numpy(start(range(cover.rows.length), range(cover.columns.length)))[None]
    return SOLVERS[solver](windowed(denoise_window, cover, batch), x, SIGMAS, None)[0].numpy()


def on_disk(folder, denoise_window, cover, solver="euler", batch=4, **options):
    canvas = Canvas(folder=folder, plan=cover, channels=2, sigmas=SIGMAS, solver=SOLVERS[solver], batch=batch)
    return np.array(solve_on_disk(canvas, denoise_window, start, "test", **options))


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_pixelwise_denoiser_needs_no_windows(solver):
    cover = plan(37, 50, 16, 5)
    whole = plan(37, 50, 64, 0)
    assert len(whole) == 1 < len(cover)
    np.testing.assert_allclose(
        in_memory(of_place, cover, solver), in_memory(of_place, whole, solver, batch=1), rtol=0, atol=1e-5
    )


def test_batches_are_of_one_shape_and_their_size_changes_nothing():
    cover, shapes = plan(37, 50, 16, 5), set()

    def watched(x, sigma, windows):
        assert len(windows) == len(x)
        shapes.add(tuple(x.shape))
        return of_context(x, sigma, windows)

    assert len(cover) == 15
    first = in_memory(watched, cover, "euler", batch=4)
    assert shapes == {(4, 2, 16, 16)}
    for batch in (1, 5, 100):
        assert np.array_equal(first, in_memory(of_context, cover, "euler", batch=batch))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 200), st.integers(2, 40), st.integers(1, 12), st.data())
def test_windows_begin_at_the_grain(length, window, grain, data):
    overlap = data.draw(st.integers(0, window - 1))
    if grain > window - overlap:
        with pytest.raises(ConfigError, match="grain"):
            plan(length, length, window, overlap, grain)
        return
    axis = plan(length, length, window, overlap, grain).rows
    assert all(start % grain == 0 for start in axis.starts)
    assert axis.starts[0] == 0
    assert axis.starts[-1] + axis.window == axis.length
    assert length <= axis.length < length + grain
    assert all(b - a <= axis.window - overlap for a, b in itertools.pairwise(axis.starts))


def shuffled(seed):
    def execute(function, units):
        units = list(units)
        np.random.default_rng(seed).shuffle(units)
        yield from map(function, units)

    return execute


@pytest.mark.parametrize("solver", SOLVERS)
def test_on_disk_it_is_the_same_to_the_last_bit_in_any_order(tmp_path, solver):
    cover = plan(37, 50, 16, 5)
    expected = in_memory(of_context, cover, solver)
    with ThreadPoolExecutor(3) as pool:
        for i, execute in enumerate((map, shuffled(0), shuffled(1), pool.map)):
            folder = tmp_path / str(i)
            folder.mkdir()
            assert np.array_equal(expected, on_disk(folder, of_context, cover, solver, execute=execute))
            assert not list(folder.glob("estimates*"))


def borders(axis):
    """Where windows begin and end inside a canvas."""
    edges = set(axis.starts) | {s + axis.window for s in axis.starts}
    return sorted(edges - {0, axis.length})


def seam(image, cover):
    """Mean step across window borders over that elsewhere, of both axes."""
    ratios = []
    for axis, side in ((1, cover.rows), (2, cover.columns)):
        steps = np.abs(np.diff(image.astype(np.float64), axis=axis)).mean((0, 3 - axis))
        at = np.isin(np.arange(len(steps)) + 1, borders(side))
        ratios.append(steps[at].mean() / steps[~at].mean())
    return max(ratios)


def test_no_seams():
    cover = plan(256, 256, 32, 16)

    def smooth(x, sigma, windows):
        """As `of_context`, but with a level of its own for each window that stays to the end."""
        levels = torch.tensor([np.sin(99.0 * w.rows.start + 55.0 * w.columns.start) for w in windows]).float()
        means = torch.stack([scene(w.rows, w.columns) for w in windows])
        return means + 0.2 * levels[:, None, None, None] + 0 * x

    assert seam(in_memory(smooth, cover, "euler"), cover) <= 1.02
    apart = plan(256, 256, 32, 0)
    assert seam(in_memory(smooth, apart, "euler"), apart) > 1.5


class Killed(BaseException):
    pass


def failing(calls):
    count = 0

    def denoise(x, sigma, windows):
        nonlocal count
        count += 1
        if count > calls:
            raise Killed
        return of_context(x, sigma, windows)

    return denoise


@pytest.mark.parametrize("calls", [0, 3, 4, 11])
def test_killed_and_taken_up_again_it_is_the_same(tmp_path, calls):
    cover = plan(37, 50, 16, 5)
    expected = in_memory(of_context, cover, "heun")
    with pytest.raises(Killed):
        on_disk(tmp_path, failing(calls), cover, "heun", execute=shuffled(3))
    done = []
    again = on_disk(tmp_path, of_context, cover, "heun", on_unit=lambda *n: done.append(n))
    assert np.array_equal(expected, again)
    units = 5 * -(-len(cover) // 4)  # five evaluations of three steps of Heun
    assert done == [(i, units) for i in range(calls + 1, units + 1)]  # what was done is not done again
    assert np.array_equal(expected, on_disk(tmp_path, failing(0), cover, "heun"))  # nor is a finished job


def test_killed_while_fusing_and_taken_up_again_it_is_the_same(tmp_path, monkeypatch):
    cover = plan(37, 50, 16, 5)
    fused, count = Canvas._fused, 0

    def fails(self, *given):
        nonlocal count
        count += 1
        if count == len(cover) + 6:
            raise Killed
        return fused(self, *given)

    monkeypatch.setattr(Canvas, "_fused", fails)
    with pytest.raises(Killed):
        on_disk(tmp_path, of_context, cover)
    assert np.array_equal(in_memory(of_context, cover, "euler"), on_disk(tmp_path, of_context, cover))


def test_stopped_by_the_caller(tmp_path):
    cover = plan(37, 50, 16, 5)
    with pytest.raises(Cancelled, match="stopped after 6 of 12 units"):
        on_disk(tmp_path, of_context, cover, on_unit=lambda done, units: done < 6)
    assert np.array_equal(in_memory(of_context, cover, "euler"), on_disk(tmp_path, of_context, cover))


def peak(folder, side):
    folder.mkdir()
    largest = 0

    def watched(x, sigma, windows):
        nonlocal largest
        largest = max(largest, x.numel())
        return of_place(x, sigma, windows)

    cover, solver = plan(side, side, 32, 8), SOLVERS["euler"]
    canvas = Canvas(folder=folder, plan=cover, channels=2, sigmas=(10.0, 1.0), solver=solver, batch=8)
    tracemalloc.start()
    solve_on_disk(canvas, watched, start, "test")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert largest == 8 * 2 * 32 * 32
    return most


def test_memory_does_not_grow_with_the_area(tmp_path):
    peak(tmp_path / "warm", 40)
    small, large = peak(tmp_path / "small", 96), peak(tmp_path / "large", 384)
    latents = 2 * 384 * 384 * 4
    assert large - small < 0.1 * latents  # the numbers of the windows, no more
    assert large < 0.4 * latents


def test_a_folder_of_another_job_is_refused(tmp_path):
    cover = plan(20, 20, 16, 5)
    on_disk(tmp_path, of_place, cover)
    with pytest.raises(ConfigError, match="holds another job's work"):
        on_disk(tmp_path, of_place, plan(20, 20, 16, 6), batch=3)


def test_a_canvas_can_go_to_another_process(tmp_path):
    canvas = Canvas(
        folder=tmp_path, plan=plan(9, 9, 4, 1), channels=2, sigmas=SIGMAS, solver=SOLVERS["heun"], batch=2
    )
    assert pickle.loads(pickle.dumps(canvas)) == canvas
    assert canvas.passes() == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]


@pytest.mark.parametrize("numbers", [(0, 5, 3, 1), (5, 0, 3, 1), (5, 5, 0, 0), (5, 5, 3, 3), (5, 5, 3, -1)])
def test_impossible_plans_are_refused(numbers):
    with pytest.raises(ConfigError, match="overlap"):
        plan(*numbers)


def test_what_cannot_be_solved_is_refused(tmp_path):
    cover = plan(9, 9, 4, 1)
    with pytest.raises(ConfigError, match="two noise levels"):
        Canvas(folder=tmp_path, plan=cover, channels=2, sigmas=(1.0,), solver=SOLVERS["euler"], batch=1)
    with pytest.raises(ConfigError, match=r"cover \(1, C, 9, 9\)"):
        windowed(of_place, cover, 2)(torch.zeros(1, 2, 9, 8), 1.0)
