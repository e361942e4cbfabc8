import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from diffusionsat import ConfigError, DiffusionSatError, MissingExtraError
from diffusionsat.execution import executor


def noted(folder: Path, task: int) -> int:
    (folder / f"{task}-{os.getpid()}").touch()
    return task


def deadly(folder: Path, deaths: int, task: int) -> int:
    """Its worker dies so many times on task 3."""
    if task == 3:
        for n in range(deaths):
            try:
                (folder / f"death-{n}").touch(exist_ok=False)
            except FileExistsError:
                continue
            os.kill(os.getpid(), signal.SIGKILL)
    return noted(folder, task)


def failing(task: int) -> int:
    raise ConfigError(f"task {task} cannot be done")


def endless():
    """More tasks than any process should be handed at once."""
    yield from range(50)
    raise AssertionError("all tasks were taken at once")


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_is_done_once(tmp_path, workers):
    with executor(workers) as execute:
        done = list(execute(functools.partial(noted, tmp_path), range(20)))
    assert sorted(done) == list(range(20))
    names = [path.name.split("-") for path in tmp_path.iterdir()]
    assert sorted(int(task) for task, _ in names) == list(range(20))
    here = {int(pid) for _, pid in names}
    assert here == {os.getpid()} if workers == 1 else os.getpid() not in here


def test_few_tasks_are_taken_ahead(tmp_path):
    with executor(2) as execute:
        results = execute(functools.partial(noted, tmp_path), endless())
        assert len([next(results) for _ in range(5)]) == 5


def test_a_dead_worker_costs_what_it_was_doing(tmp_path):
    with executor(2) as execute:
        done = list(execute(functools.partial(deadly, tmp_path, 2), range(8)))
    assert sorted(done) == list(range(8))
    assert len(list(tmp_path.glob("death-*"))) == 2


def test_a_task_that_kills_every_worker_stops_the_job(tmp_path):
    with executor(2) as execute, pytest.raises(DiffusionSatError, match="fewer workers"):
        list(execute(functools.partial(deadly, tmp_path, 99), range(8)))


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_of_tasks_arrive(workers):
    with executor(workers) as execute, pytest.raises(ConfigError, match="task 0 cannot be done"):
        list(execute(failing, [0]))


ORPHANING = """
import os, time
from diffusionsat.execution import processes
if __name__ == "__main__":
    pool = processes(1, tuple, ())
    pool.submit(os.getpid).result()
    pool.submit(time.sleep, 3600)
    print("at work", flush=True)
    time.sleep(3600)
"""


def test_workers_do_not_outlive_a_killed_process():
    with subprocess.Popen([sys.executable, "-c", ORPHANING], stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout.readline() == "at work\n"
        process.kill()
        process.stderr.read()  # to its end, which comes when the last process that holds it is gone


@pytest.mark.parametrize("workers", [0, -1, True, 1.5])
def test_a_wrong_number_of_workers(workers):
    with pytest.raises(ConfigError, match="whole number from 1"), executor(workers):
        pass


def test_dask_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with (
        pytest.raises(MissingExtraError, match=r"diffusionsat\[cluster\]"),
        executor(dask="tcp://127.0.0.1:1"),
    ):
        pass


@pytest.mark.slow
@pytest.mark.enable_socket
@pytest.mark.parametrize(("workers", "deaths"), [(2, 1), (1, 2)])  # of one worker all that the cluster holds
def test_dask_does_the_work_and_a_lost_worker_loses_nothing(tmp_path, workers, deaths):
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    options = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, executor(dask=cluster.scheduler_address) as execute:
        done = list(execute(functools.partial(deadly, tmp_path, deaths), range(8)))
    assert sorted(done) == list(range(8))
    assert len(list(tmp_path.glob("death-*"))) == deaths
