"""Pictures of a report, as bytes of PNG files."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from diffusionsat.errors import MissingExtraError
from diffusionsat.metrics.distributions import Extrapolation
from diffusionsat.tasks.sheet import contact_sheet

_REACH = 3
INK, FLOOR = "#1f77b4", "#7f7f7f"
COLOURS = (INK, "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#a6761d")


def check() -> None:
    """Refuse to work without matplotlib.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("The figures of a report", "eval") from error


def sheet(images: Sequence[np.ndarray], captions: Sequence[str], columns: int, title: str) -> bytes:
    """Images side by side, small ones enlarged, each with a line under it."""
    times = max(1, 128 // images[0].shape[1])
    larger = [image.repeat(times, 0).repeat(times, 1) for image in images]
    return png(contact_sheet(larger, captions, columns=columns, title=title))


def extrapolation(network: str, curves: Mapping[str, Extrapolation | None]) -> bytes:
    """Fréchet distances at rising numbers of images over 1 / N, with the lines to infinitely many."""
    figure, axes = _axes(f"Fréchet distance on {network}")
    for (name, curve), colour in zip(curves.items(), (INK, FLOOR), strict=False):
        if curve is None:
            continue
        x = 1 / np.asarray(curve.sizes)
        axes.plot(x, curve.distances, "o", color=colour, label=name)
        slope = np.polynomial.Polynomial.fit(x, curve.distances, 1)
        axes.plot([0, x.max()], [curve.value, slope(x.max())], color=colour, linewidth=1)
    axes.set_xlabel("1 / number of images")
    axes.set_ylabel("squared units of the features")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    if any(curves.values()):
        axes.legend(frameon=False)
    return _png(figure)


def classes(shares: Mapping[str, Mapping[str, float]]) -> bytes:
    """Share of images that are read as asked, a row a class, a panel a probe."""
    figure, panels = _axes("read as asked", columns=len(shares), tall=max(len(s) for s in shares.values()))
    for axes, (name, of_class) in zip(np.atleast_1d(panels), shares.items(), strict=True):
        labels = list(of_class)[::-1]
        axes.barh(labels, [of_class[label] for label in labels], color=INK)
        axes.set_xlim(0, 1)
        axes.set_title(name, fontsize=8)
        axes.tick_params(labelsize=7)
    return _png(figure)


def intervals(title: str, rows: Sequence[tuple[str, Mapping[str, float]]], best: float) -> bytes:
    """Figures with their intervals, a row each, and a line at what is best; wide ones leave the picture."""
    figure, axes = _axes(title, tall=len(rows))
    for y, (_, found) in enumerate(reversed(rows)):
        axes.plot([found["low"], found["high"]], [y, y], color=INK)
        axes.plot(found["value"], y, "o", color=INK)
    axes.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)], fontsize=7)
    axes.axvline(best, color=FLOOR, linewidth=1)
    axes.axvline(0, color=FLOOR, linewidth=0.5)
    axes.set_xlim(best - _REACH, best + _REACH)  # where little can be said, one would squeeze all others
    return _png(figure)


def ranks(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """How often the truth has each rank among the samples, a panel a line; flat is best."""
    about = [", ".join(v for k, v in line.items() if isinstance(v, str) and k != "set") for line in lines]
    figure, panels = _axes("rank of the truth among the samples", columns=len(lines))
    for axes, line, name in zip(np.atleast_1d(panels), lines, about, strict=True):
        shares = [share for key, share in line.items() if key.startswith("rank ")]
        axes.bar(range(len(shares)), shares, color=INK)
        axes.axhline(1 / len(shares), color=FLOOR, linewidth=1)
        axes.set_title(name, fontsize=8)
    return _png(figure)


def sampling(
    steps: Sequence[Mapping[str, Any]], strengths: Sequence[Mapping[str, Any]], floor: float
) -> bytes:
    """Distance against evaluations, a line a solver and a style a schedule; and against guidance."""
    network = (*steps, *strengths)[0]["features"]
    figure, (left, right) = _axes(f"Fréchet distance on {network}", columns=2, wide=True)
    schedules, solvers = (list(dict.fromkeys(x[key] for x in steps)) for key in ("schedule", "solver"))
    for schedule, style in zip(schedules, ("-", "--", ":", "-."), strict=False):
        for solver, colour in zip(solvers, COLOURS, strict=False):
            line = [x for x in steps if (x["schedule"], x["solver"]) == (schedule, solver)]
            x, y = [p["evaluations"] for p in line], [p["frechet_distance"] for p in line]
            left.plot(x, y, style, marker=".", color=colour, label=f"{solver}, {schedule}", linewidth=1)
    left.set_xscale("log")
    counts = sorted({line["evaluations"] for line in steps})
    left.set_xticks([n for n in (5, 10, 20, 50, 100, 200) if counts[0] <= n <= counts[-1]])
    left.xaxis.set_major_formatter("{x:.0f}")
    left.minorticks_off()
    left.set_xlabel("evaluations of the denoiser")
    for steered, colour in zip(dict.fromkeys(x["guided"] for x in strengths), COLOURS, strict=False):
        line = [x for x in strengths if x["guided"] == steered]
        x, y = [p["strength"] for p in line], [p["frechet_distance"] for p in line]
        right.plot(x, y, marker=".", color=colour, label=f"of {steered}", linewidth=1)
    right.set_xlabel("strength of guidance; 1 is none")
    for axes in (left, right):
        axes.axhline(floor, color=FLOOR, linewidth=1, label="real images")
        axes.legend(frameon=False, fontsize=6)
    return _png(figure)


def probes(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """Share that linear probes read over the network's blocks; networks without noise levels as lines."""
    sources, shares = (list(dict.fromkeys(line[key] for line in lines)) for key in ("labels", "share"))
    figure, grid = _axes("read by linear probes", columns=len(shares), rows=len(sources))
    for panels, source in zip(np.reshape(grid, (len(sources), -1)), sources, strict=True):
        for axes, share in zip(panels, shares, strict=True):
            mine = [x for x in lines if (x["labels"], x["share"]) == (source, share)]
            blocks = list(dict.fromkeys(x["features"] for x in mine if x["sigma"]))
            for sigma, colour in zip(
                dict.fromkeys(x["sigma"] for x in mine if x["sigma"]), COLOURS, strict=False
            ):
                found = {x["features"]: x["read"]["value"] for x in mine if x["sigma"] == sigma}
                values = [found[block] for block in blocks]
                axes.plot(
                    range(len(blocks)), values, marker=".", color=colour, linewidth=1, label=f"noise {sigma}"
                )
            for line, style in zip((x for x in mine if not x["sigma"]), ("--", ":", "-."), strict=False):
                axes.axhline(line["read"]["value"], color=FLOOR, linestyle=style, label=line["features"])
            axes.set_xticks(range(len(blocks)), blocks, rotation=90, fontsize=6)
            axes.set_title(f"{source}, {share} of the labels", fontsize=8)
            axes.set_ylim(0, 1)
    np.ravel(grid)[0].legend(frameon=False, fontsize=6)
    return _png(figure)


def matrices(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """How far each field's reading moves under sweeps, a panel a probe, a row a field that is swept."""
    probes = list(dict.fromkeys(line["probe"] for line in lines))
    figure, panels = _axes("how far readings move: 1 as far as from case to case", columns=len(probes))
    for axes, probe in zip(np.atleast_1d(panels), probes, strict=True):
        mine = [line for line in lines if line["probe"] == probe]
        fields = [key.removesuffix(" moves") for key in mine[0] if key.endswith(" moves")]
        values = np.array([[line[f"{field} moves"] for field in fields] for line in mine])
        axes.imshow(values, cmap="Blues", vmin=0, vmax=max(1.5, values.max()))
        for (y, x), value in np.ndenumerate(values):
            axes.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=9)
        axes.set_xticks(range(len(fields)), fields)
        axes.set_yticks(range(len(mine)), [line["swept"] for line in mine])
        axes.set_xlabel("read")
        axes.set_ylabel("swept")
        axes.set_title(probe, fontsize=8)
    return _png(figure)


def world(
    features: Sequence[Mapping[str, Any]],
    places: Sequence[tuple[float, float]],
    score: str,
    title: str,
    *,
    higher: bool,
) -> bytes:
    """Cells of GeoJSON on a map of equal area, blue where a score is better than 0; the places as points."""
    from matplotlib import cm, colors

    figure, axes = _axes(title, wide=True)
    values = [feature["properties"][score] for feature in features]
    most = max(map(abs, values)) or 1.0
    scale = colors.TwoSlopeNorm(0, -2 * most, 2 * most)  # pale, so that what is written can be read
    painted = cm.ScalarMappable(scale, "RdBu" if higher else "RdBu_r")
    for feature, value in zip(features, values, strict=True):
        ring = np.array(feature["geometry"]["coordinates"][0])
        x, y = ring[:, 0], np.sin(np.radians(ring[:, 1]))
        axes.fill(x, y, color=painted.to_rgba(value), edgecolor="white")
        said = f"{value:+.2f}\nn {feature['properties']['images']}"
        axes.text(x[:4].mean(), y[:4].mean(), said, ha="center", va="center", fontsize=7, zorder=3)
    lon, lat = np.array(places).T
    axes.plot(lon, np.sin(np.radians(lat)), ".", color=FLOOR, markersize=2)
    degrees = [-60, -30, 0, 30, 60]
    axes.set_yticks(np.sin(np.radians(degrees)), [f"{d}°" for d in degrees])
    axes.set_xticks(range(-180, 181, 60), [f"{d}°" for d in range(-180, 181, 60)])
    axes.set_xlim(-180, 180)
    axes.set_ylim(-1, 1)
    axes.grid(color="#dddddd", linewidth=0.5)
    axes.set_axisbelow(True)
    figure.colorbar(painted, ax=axes, shrink=0.7)
    return _png(figure)


def _axes(
    title: str, *, columns: int = 1, rows: int = 1, tall: int = 0, wide: bool = False
) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    height = max(4.0, 1.2 + 0.22 * tall) * (1 if rows == 1 else 0.8 * rows)
    figure = Figure(figsize=(9 if wide else max(6, 4.5 * columns), height), dpi=110, layout="constrained")
    figure.suptitle(title, fontsize=10)
    return figure, figure.subplots(rows, columns)


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})  # the same bytes each time
    return out.getvalue()


def png(pixels: np.ndarray) -> bytes:
    """An image, uint8 (H, W, 3), as a PNG."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
