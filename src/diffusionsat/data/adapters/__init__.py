"""Adapters: raw releases of data sets, as their publishers lay them out, as records."""

from diffusionsat.data.adapters import eurosat, fmow, folder, satlas, spacenet, tables, webdataset, xbd
from diffusionsat.data.adapters.release import Adapter

ADAPTERS: dict[str, Adapter] = {
    adapter.name: adapter
    for adapter in (
        fmow.RGB,
        fmow.TEMPORAL,
        fmow.SENTINEL,
        fmow.PAIRS,
        satlas.SATLAS,
        spacenet.SPACENET,
        webdataset.TEXAS,
        xbd.XBD,
        eurosat.RGB,
        eurosat.MULTISPECTRAL,
        tables.PARQUET,
        folder.FOLDER,
        webdataset.WEBDATASET,
    )
}
