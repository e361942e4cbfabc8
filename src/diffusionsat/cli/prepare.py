"""`diffusionsat prepare`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffusionsat.cli import options
from diffusionsat.cli.progress import Bar
from diffusionsat.errors import ConfigError, DiffusionSatError

if TYPE_CHECKING:
    from diffusionsat.data.preparing import Job

_EPILOG = """\b
Examples:
  diffusionsat prepare fmow-rgb /data/fmow-rgb --size 512 --workers 8 -o fmow-512/
  diffusionsat prepare folder my-geotiffs/ --block 50 --buffer 5 -o mine/
"""


@click.command(epilog=_EPILOG)
@click.argument("dataset", metavar="DATASET")
@click.argument("sources", nargs=-1, required=True, metavar="SRC...", type=click.Path(path_type=Path))
@click.option("--split", metavar="NAME", help="Take only this one of the publisher's splits.")
@click.option("--workers", type=int, default=1, show_default=True, metavar="N", help="Processes.")
@click.option(
    "--published", is_flag=True, help="Keep places, dates and captions of the published preprocessing."
)
@click.option(
    "--block",
    type=float,
    metavar="KM",
    help="Split by place, in blocks of this size [the publisher's splits; 100 where there are none].",
)
@click.option(
    "--buffer",
    type=float,
    metavar="KM",
    help="Leave out train images nearer to another split; at most --block [10].",
)
@click.option("--test-share", type=float, metavar="S", help="Share of the blocks for test [0.1].")
@click.option("--validation-share", type=float, metavar="S", help="Share of the blocks for validation [0].")
@click.option("--size", type=int, metavar="N", help="Reduce images to this longest side in pixels.")
@click.option("--dry-run", is_flag=True, help="Say what would be made, and make nothing.")
@options.output
@options.verbosity
def command(
    dataset: str,
    sources: tuple[Path, ...],
    split: str | None,
    workers: int,
    published: bool,
    size: int | None,
    dry_run: bool,
    output: Path,
    overwrite: bool,
    as_json: bool,
    **placing: float | None,
) -> int:
    """Turn the raw release of a DATASET in SRC, or a folder of your own, into shards for training.

    OUT is a folder; it gets Parquet shards, an index, a summary with a map and histograms, and a list of the
    records that cannot be used, which are passed over. A job that was stopped goes on when the same command
    is given again. The last line of stdout is JSON that says what was made. A DATASET that does not exist is
    answered with the names of those that do.
    """
    from diffusionsat.data.adapters import ADAPTERS
    from diffusionsat.data.preparing import Job

    if dataset not in ADAPTERS:
        raise ConfigError(f"There is no data set {dataset!r}. Those that are known: {', '.join(ADAPTERS)}.")
    for name, value in (("workers", workers), ("size", size)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}. Give a whole number from 1.")
    job = Job(
        dataset=dataset,
        sources=sources,
        split=split,
        published=published,
        blocks=_blocks(**placing),
        size=size,
    )
    return _dry_run(job) if dry_run else _run(job, output, workers, overwrite)


def _blocks(
    block: float | None, buffer: float | None, test_share: float | None, validation_share: float | None
) -> Any:
    from diffusionsat.data.splits import Blocks

    given = {"block_km": block, "buffer_km": buffer, "test": test_share, "validation": validation_share}
    given = {name: value for name, value in given.items() if value is not None}
    return Blocks(**given) if given else None


def _dry_run(job: "Job") -> int:
    from diffusionsat.data.preparing import Plan, plan

    found = Plan()
    shards = sum(1 for _ in plan(job, found))
    told = {"dataset": job.dataset, "records": dict(sorted(found.records.items())), "shards": shards}
    click.echo(json.dumps(told | {"rejected": len(found.rejected), "too_near": found.near, "written": 0}))
    return 0


def _run(job: "Job", folder: Path, workers: int, overwrite: bool) -> int:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    from diffusionsat.data.preparing import REJECTED, leave_with_parent, prepare

    before = set(folder.glob("*.parquet")) if folder.is_dir() else set()
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), leave_with_parent)
    try:
        with pool, Bar("records", None) as bar:
            told = prepare(job, folder, pool, at_once=2 * workers, overwrite=overwrite, on_records=bar.show)
    except DiffusionSatError as error:
        if not set(folder.glob("*.parquet")) - before:
            raise
        click.echo(f"error: {error} The same command, without --overwrite, goes on from here.", err=True)
        return 3
    if told["rejected"] and not options.quiet():
        click.echo(f"{told['rejected']} records cannot be used; see {folder / REJECTED}.", err=True)
    click.echo(json.dumps({"path": str(folder), **told}))
    return 0
