"""Grids, rasters and catalogues: where pixels lie on the Earth. No torch here."""
