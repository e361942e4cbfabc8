"""`diffusionsat features`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from diffusionsat.cli import options
from diffusionsat.cli.progress import Bar
from diffusionsat.errors import RasterError
from diffusionsat.files import check_writable, writing

_EPILOG = """\b
Examples:
  diffusionsat features chip.png --sigma 0.1,0.5 -o chip.npz
  diffusionsat features scene.tif --blocks up.7 -o maps/
  diffusionsat features eurosat_rgb/ --split test --sigma 0.25 -o eurosat.parquet
"""


@click.command(epilog=_EPILOG)
@click.argument("source", metavar="SRC")
@click.option("--sigma", default="0.25", show_default=True, metavar="S,S", help="Noise levels.")
@click.option("--blocks", metavar="NAME,NAME", help="Blocks of the network [its middle and way up].")
@click.option("--prompt", default="", metavar="TEXT", help="What the network is told is to be seen.")
@options.place
@click.option("--known", is_flag=True, help="Tell the network what the data set knows of each image.")
@click.option("--split", default="test", show_default=True, metavar="NAME", help="Of a data set.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="S", help="Of the noise.")
@options.model
@options.output
@options.verbosity
def command(
    source: str,
    sigma: str,
    blocks: str | None,
    prompt: str,
    known: bool,
    split: str,
    seed: int,
    output: Path,
    overwrite: bool,
    as_json: bool,
    model: str,
    device: str,
    precision: str,
    **place: Any,
) -> int:
    """Take the features of the denoising network of SRC: an image, a raster of any size, or a data set.

    OUT is a folder for a GeoTIFF of float32 bands for each block and noise level, named BLOCK@SIGMA.tif; or a
    .npz of the same maps, for an image of 8 bits that is seen at once. Of a data set, a folder or a .parquet,
    OUT is a .parquet of pooled vectors, one row an image. A block that does not exist is answered with the
    names of those that do.
    """
    path, suffix = Path(source), output.suffix.lower()
    a_set = source.endswith(".parquet") or any(path.glob("*.parquet"))
    a_set = a_set or ("://" in source and suffix == ".parquet")
    if a_set != (suffix == ".parquet"):
        wanted = ".parquet" if a_set else ".npz, or a folder"
        raise RasterError(f"{output} has suffix {output.suffix!r}; of {source} it is {wanted}.")
    if suffix in (".parquet", ".npz"):
        check_writable(output, overwrite=overwrite)
    metadata, levels = options.known_metadata(**place), options.numbers(sigma, "sigma")
    pixels = _pixels(path) if suffix == ".npz" else None

    from diffusionsat.model import DiffusionSat
    from diffusionsat.tasks.features import FeaturesRequest

    sat = DiffusionSat.from_pretrained(model, device=device, precision=precision)
    chosen = tuple(blocks.split(",")) if blocks else ()
    request = FeaturesRequest(prompt=prompt, metadata=metadata, sigma=levels, blocks=chosen, seed=seed)
    about = {"model": f"{sat.config.name}@{sat.config.version}", "model_hash": sat.checkpoint, "seed": seed}
    if pixels is not None:
        about |= _image(sat, pixels, request, output, overwrite)
        click.echo(json.dumps({"path": str(output), **about}))
    elif a_set:
        count = _data_set(sat, source, split, request, output, about, known=known, overwrite=overwrite)
        click.echo(json.dumps({"path": str(output), **about, "images": count}))
    else:
        from diffusionsat.tasks.feature_maps import map_features

        with Bar("windows", None) as bar:
            paths = map_features(
                sat, source, output, request, known=known, overwrite=overwrite, on_window=bar.show
            )
        for written in paths:
            click.echo(json.dumps({"path": str(written), **about}))
    return 0


def _pixels(path: Path) -> Any:
    """An image file as uint8 (H, W, 3)."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode in ("L", "P", "RGB", "RGBA"):
                return np.array(image.convert("RGB"))
            said = f"its mode is {image.mode}"
    except OSError as error:
        said = str(error)
    raise RasterError(f"{path} is no image of 8 bits a colour: {said}. Of a raster give a folder for OUT.")


def _image(sat: Any, pixels: Any, request: Any, output: Path, overwrite: bool) -> dict[str, Any]:
    import numpy as np

    from diffusionsat.tasks.features import features

    found = features(sat, pixels, request)
    with writing(output, overwrite=overwrite) as partial, partial.open("wb") as file:
        np.savez(file, **found.maps)  # pyright: ignore[reportArgumentType], names are data here
    shapes = {name: list(values.shape) for name, values in found.maps.items()}
    return {"maps": shapes, "strides": found.strides}


def _data_set(
    sat: Any,
    source: str,
    split: str,
    request: Any,
    output: Path,
    about: dict[str, Any],
    *,
    known: bool,
    overwrite: bool,
) -> int:
    from diffusionsat.data.sources import Source
    from diffusionsat.tasks.features import features_of, write_features

    images = Source(source, split=split)
    said = {name: str(value) for name, value in about.items()}
    with Bar("images", int(images.images.colour.sum())) as bar:
        rows = _told(features_of(sat, images, request, known=known), bar)
        return write_features(output, rows, said, overwrite=overwrite)


def _told(rows: Iterator[Any], bar: Bar) -> Iterator[Any]:
    for row in rows:
        bar.advance()
        yield row
