"""Damage that GDAL does not see: it stops reading a deflated tile before the checksum at its end."""

import zlib
from pathlib import Path
from typing import Any

from diffusionsat.errors import RasterError


class Checksums:
    """Compares the tiles of an open GeoTIFF with their checksums (Adler-32, RFC 1950), each once.

    Only DEFLATE has them: in what is packed otherwise or not at all, numbers that damage has changed are
    numbers like others.

    Args:
        file: The GeoTIFF.
        opened: The same, as rasterio has opened it.
    """

    def __init__(self, file: Path, opened: Any) -> None:
        from rasterio.enums import Compression, Interleaving

        self.file, self.opened = file, opened
        self.there = opened.driver == "GTiff" and opened.compression == Compression.deflate
        self.apart = opened.interleaving == Interleaving.band  # a tile holds one band
        self.seen: set[tuple[int, int, int]] = set()

    def check(self, indexes: tuple[int, ...], rows: range, columns: range) -> None:
        """Look at the tiles of some bands that meet a rectangle.

        Raises:
            RasterError: If one is damaged.
        """
        if not self.there:
            return
        height, width = self.opened.block_shapes[0]
        tiles = {
            (band, row, column)
            for band in (indexes if self.apart else (1,))
            for row in range(rows.start // height, -(-rows.stop // height))
            for column in range(columns.start // width, -(-columns.stop // width))
        }
        with self.file.open("rb") as file:
            for band, row, column in sorted(tiles - self.seen):
                place, size = (
                    int(self.opened.get_tag_item(f"BLOCK_{what}_{column}_{row}", "TIFF", bidx=band) or 0)
                    for what in ("OFFSET", "SIZE")
                )
                file.seek(place)
                try:
                    zlib.decompress(file.read(size) if size else zlib.compress(b""))
                except zlib.error:
                    raise RasterError(f"the tile in row {row}, column {column} is damaged") from None
        self.seen |= tiles
