"""`diffusionsat generate`."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from diffusionsat.cli import options
from diffusionsat.cli.progress import Bar
from diffusionsat.errors import ConfigError, DiffusionSatError, RasterError

_EPILOG = """\b
Examples:
  diffusionsat generate "a river" --lnglat 7.44,46.95 --date 2019-07 --gsd 10 -o river.tif
  diffusionsat generate "forest" --sweep date=2019-01/2019-12 --lnglat 20,60 --gsd 7400 -o year.png
  cat places.geojson | diffusionsat generate --features - --as folder -o chips/
"""


@click.command(epilog=_EPILOG)
@click.argument("prompt", default="")
@click.option(
    "--lnglat", type=options.LngLat(), metavar="LON,LAT", help="Centre of the image, degrees WGS84."
)
@click.option("--date", metavar="YYYY[-MM[-DD]]", help="A day, a month or a year.")
@click.option("--gsd", type=float, metavar="G", help="Metres per pixel.")
@click.option("--cloud", type=float, metavar="P", help="Cloud cover in percent.")
@click.option(
    "-n", "count", type=int, default=1, show_default=True, metavar="N", help="Images of one prompt."
)
@click.option("--size", type=options.Size(), metavar="WxH", help="Pixels [the model's].")
@click.option(
    "--features", metavar="FILE|-", help="GeoJSON: one image a feature; - is stdin. OUT is a folder."
)
@click.option(
    "--as",
    "form",
    type=click.Choice(["tif", "png", "folder", "parquet", "webdataset"]),
    default="tif",
    show_default=True,
    help="How the images of --features are written.",
)
@click.option(
    "--sweep",
    metavar="FIELD=A/B[/N]|A,B,C",
    help="A labelled sheet of one seed over a range or list of lon, lat, gsd, cloud_cover or date.",
)
@options.sampling
@options.model
@options.output
@options.verbosity
def command(
    prompt: str,
    lnglat: tuple[float, float] | None,
    date: str | None,
    gsd: float | None,
    cloud: float | None,
    count: int,
    size: tuple[int, int] | None,
    features: str | None,
    form: str,
    sweep: str | None,
    output: Path,
    overwrite: bool,
    as_json: bool,
    model: str,
    device: str,
    precision: str,
    **sampling: Any,
) -> int:
    """Make an image of a PROMPT, a place, a date and a resolution; any of them may be left out.

    OUT is a .tif (Cloud Optimized GeoTIFF) or a .png with a world file; with -n more than 1 the images are
    OUT-000, OUT-001 and so on. Each image made prints one line of JSON.
    """
    # Whatever can be refused is refused before the model is loaded.
    from diffusionsat.metadata import Metadata

    lon, lat = lnglat or (None, None)
    metadata = Metadata(lon=lon, lat=lat, gsd=gsd, cloud_cover=cloud, date=date)
    swept = options.parse_values(sweep) if sweep else None
    if swept and features:
        raise ConfigError("--sweep and --features exclude each other. Give one of them.")
    if (swept or features) and count != 1:
        raise ConfigError("-n makes several images of one prompt; leave it out with --features and --sweep.")
    if form != "tif" and not features:
        raise ConfigError(f"--as {form} is for --features. Leave it out; OUT's suffix says the format.")
    places = _read_features(features) if features else None
    paths = [] if features else _paths(output, count, sheet=bool(swept), overwrite=overwrite)

    from diffusionsat.model import DiffusionSat
    from diffusionsat.tasks.generate import GenerateRequest
    from diffusionsat.tasks.sampling import guidance_of

    sat = DiffusionSat.from_pretrained(model, device=device, precision=precision)
    request = GenerateRequest(
        prompt=prompt,
        metadata=metadata,
        size=size,
        n=count,
        seed=sampling["seed"],
        steps=sampling["steps"],
        solver=sampling["solver"],
        guidance=guidance_of(sat, sampling["guidance"], sampling["metadata_guidance"]),
        negative=sampling["negative"],
        strict=sampling["strict"],
    )
    if places is not None:
        return _bulk(sat, places, request, output, form, overwrite=overwrite, as_json=as_json)
    if swept:
        return _sweep(sat, request, *swept, paths[0], overwrite)
    return _plain(sat, request, paths, overwrite)


def _paths(output: Path, count: int, *, sheet: bool, overwrite: bool) -> list[Path]:
    from diffusionsat.files import check_writable

    suffixes = (".png",) if sheet else (".tif", ".tiff", ".png")
    if output.suffix.lower() not in suffixes:
        raise RasterError(f"{output} has suffix {output.suffix!r}. Give {', '.join(suffixes)}.")
    names = options.numbered(output, count)
    if count == 1:
        return [check_writable(output, overwrite=overwrite)]
    # Of several, some may be there from a run that was stopped; whether they are is seen when they are read.
    return [check_writable(name, overwrite=True) for name in names]


def _read_features(source: str) -> list[Any]:
    from diffusionsat.geo.features import read_features

    try:
        content = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        return read_features(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source} is no UTF-8 text: {error}. GeoJSON is UTF-8.") from None
    except FileNotFoundError:
        raise ConfigError(f"{source} does not exist. Give a GeoJSON file, or - for stdin.") from None
    except OSError as error:
        raise ConfigError(f"{source} cannot be read: {error.strerror}.") from None


def _plain(sat: Any, request: Any, paths: list[Path], overwrite: bool) -> int:
    from diffusionsat.tasks.generate import batches, make_batch

    resolved = request.resolved(sat)
    done = set() if overwrite or len(paths) == 1 else _made_before(sat, resolved, paths)
    written = 0
    groups = batches([(resolved, i) for i in range(resolved.n)])
    try:
        groups = [group for group in groups if not all(i in done for _, i in group)]
        with Bar("steps", None) as bar:
            for number, group in enumerate(groups):

                def show(info: Any, before: int = number) -> None:
                    bar.show(before * info.steps + info.step, len(groups) * info.steps)

                for (_, i), scene in zip(group, make_batch(sat, group, show), strict=True):
                    if i not in done:
                        scene.save(paths[i], overwrite=overwrite)
                        written += 1
                        known = scene.metadata.to_dict() | {"crs": scene.crs and scene.crs.to_string()}
                        _print({"path": str(paths[i]), "synthetic": True, **known, **scene.provenance})
    except DiffusionSatError as error:
        if not written and not done:
            raise
        click.echo(f"error: {error} The same command goes on from here.", err=True)
        return 3
    return 0


def _made_before(sat: Any, resolved: Any, paths: list[Path]) -> set[int]:
    """Indices of images that a stopped run of the same command left; any other file is refused."""
    from diffusionsat.geo.images import read_tags
    from diffusionsat.tasks.generate import made

    done = set()
    for i, path in enumerate(paths):
        if not path.exists():
            continue
        wanted = made(sat, resolved, i) | {"metadata": resolved.metadata.to_dict()}
        held = read_tags(path) or {}
        if any(held.get(name) != value for name, value in wanted.items() if name != "created"):
            raise RasterError(f"{path} exists and is another image. Give another name, or --overwrite.")
        done.add(i)
    return done


def _sweep(sat: Any, request: Any, name: str, values: list[Any], path: Path, overwrite: bool) -> int:
    from diffusionsat.tasks.sweep import sweep

    with Bar("steps", None) as bar:
        sweep(sat, request, name, values, lambda _: bar.advance()).save(path, overwrite=overwrite)
    about = {"sweep": {name: values}, "prompt": request.prompt, "seed": request.seed}
    _print({"path": str(path), "synthetic": True, **about})
    return 0


def _bulk(
    sat: Any,
    features: list[Any],
    request: Any,
    folder: Path,
    form: str,
    *,
    overwrite: bool,
    as_json: bool,
) -> int:
    from diffusionsat.tasks.bulk import plan, run

    planned, bad = plan(sat, features, request)
    for index, complaint in bad:
        if not as_json:
            click.echo(f"error: feature {index}: {complaint.rstrip('.')}. It is passed over.", err=True)
        _print({"feature": index, "error": complaint})
    if not planned:
        return 2
    written = 0
    try:
        with Bar("images", len(planned)) as bar:
            for path in run(
                sat, planned, folder, form, overwrite=overwrite, on_image=lambda _: bar.advance()
            ):
                written += 1
                _print({"path": str(path), "synthetic": True})
    except DiffusionSatError as error:
        if not written:
            raise
        click.echo(f"error: {error} The same command, without --overwrite, goes on from here.", err=True)
        return 3
    return 3 if bad else 0


def _print(line: dict[str, Any]) -> None:
    click.echo(json.dumps(line))
