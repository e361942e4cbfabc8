"""Latents of any size as pixels, and pixels as latents, a rectangle at a time."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from diffusionsat.diffusion.windows import Plan, Window, plan
from diffusionsat.model import DiffusionSat

Shown = Callable[[range, range], np.ndarray]  # rows, columns of pixels -> 0 to 1, (3, rows, columns)
_TILE = 64  # latent pixels of a side that are decoded at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Renderer:
    """Decodes tiles with what lies around them, so that none shows.

    Where the autoencoder looks no further than its halo, as ours does, the whole is what it would be if
    decoded at once. Others get tiles that overlap and fade into each other.

    Args:
        sat: The model.
        height: Of the latents.
        width: Likewise.
        scale: What the latents are divided by to be as the autoencoder makes them.
    """

    sat: DiffusionSat
    height: int
    width: int
    scale: float = 1.0

    @property
    def tiles(self) -> Plan:
        """Of the latents."""
        exact = self.sat.networks.halo is not None
        return plan(self.height, self.width, _TILE, 0 if exact else _TILE // 4)

    @property
    def _around(self) -> int:
        halo = self.sat.networks.halo
        return _TILE // 8 if halo is None else halo

    @torch.inference_mode()
    def decode(self, latents: np.ndarray, rows: range, columns: range) -> np.ndarray:
        """What is shown, 0 to 1, float32 (3, rows, columns).

        Args:
            latents: Float32 (C, height, width), mapped from a file if they are many.
            rows: Of pixels, within the image.
            columns: Likewise.
        """
        factor, tiles = self.sat.factor, self.tiles
        out = np.zeros((3, len(rows), len(columns)), np.float32)
        wanted = Window(_shrunk(rows, factor), _shrunk(columns, factor))
        for i in tiles.touching(wanted):
            tile = tiles.window(i)
            shown = self._decode_tile(latents, tile)
            weights = np.repeat(np.repeat(tiles.weights(i), factor, 0), factor, 1)
            down, across = (
                _meeting(_grown(tile.rows, factor), rows),
                _meeting(_grown(tile.columns, factor), columns),
            )
            out[:, down[1], across[1]] += (shown * weights)[:, down[0], across[0]]
        return out

    @torch.inference_mode()
    def encode(self, shown: Shown, rows: range, columns: range) -> np.ndarray:
        """Latents of a rectangle, float32 (C, rows, columns), times `scale`.

        Args:
            shown: What is shown, 0 to 1, float32 (3, rows, columns), of a rectangle of pixels.
            rows: Of latents.
            columns: Likewise.
        """
        around, factor = self._around, self.sat.factor
        wide, high = _around(columns, around, self.width), _around(rows, around, self.height)
        image = torch.from_numpy(shown(_grown(high, factor), _grown(wide, factor)))
        latents = self.sat.networks.encode((2 * image - 1)[None].to(self.sat.device))[0].cpu().numpy()
        top, left = rows.start - high.start, columns.start - wide.start
        return latents[:, top : top + len(rows), left : left + len(columns)] * np.float32(self.scale)

    def _decode_tile(self, latents: np.ndarray, tile: Window) -> np.ndarray:
        """A tile, float32 (3, h, w), decoded with its surroundings."""
        around = self._around
        rows, columns = _around(tile.rows, around, self.height), _around(tile.columns, around, self.width)
        cut = torch.from_numpy(np.array(latents[(slice(None), *Window(rows, columns).slices)]))
        image = self.sat.networks.decode(cut[None].to(self.sat.device) / self.scale)[0]
        factor = self.sat.factor
        top, left = (tile.rows.start - rows.start) * factor, (tile.columns.start - columns.start) * factor
        image = image[:, top : top + len(tile.rows) * factor, left : left + len(tile.columns) * factor]
        return ((image + 1) / 2).clamp(0, 1).float().cpu().numpy()


def _around(inner: range, by: int, length: int) -> range:
    """A range with its surroundings, as far as there are any."""
    return range(max(0, inner.start - by), min(length, inner.stop + by))


def _shrunk(pixels: range, factor: int) -> range:
    """The latent pixels that some pixels lie in."""
    return range(pixels.start // factor, -(-pixels.stop // factor))


def _grown(latents: range, factor: int) -> range:
    return range(latents.start * factor, latents.stop * factor)


def _meeting(a: range, b: range) -> tuple[slice, slice]:
    """What two ranges have in common, counted in each."""
    first, last = max(a.start, b.start), min(a.stop, b.stop)
    return slice(first - a.start, last - a.start), slice(first - b.start, last - b.start)
