"""Pickles of plain containers and numpy arrays, and of nothing else."""

import io
import pickle
from typing import Any

from diffusionsat.errors import DatasetError

_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),  # how protocol 2 writes the bytes of an array
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise DatasetError(
                f"it asks for {module}.{name}, which could run code; only numbers, texts, lists, dicts and "
                "numpy arrays are read"
            )
        return super().find_class(module, name)


def loads(content: bytes, name: str) -> Any:
    """The object of a pickle.

    Args:
        content: The pickle.
        name: What to call it in messages.

    Raises:
        DatasetError: If it is damaged or asks for anything but containers, numbers, texts and arrays.
    """
    try:
        return _Unpickler(io.BytesIO(content)).load()
    except DatasetError as error:
        raise DatasetError(f"{name} is not unpickled: {error}.") from None
    except Exception as error:  # a damaged pickle raises nearly anything
        raise DatasetError(f"{name} is no pickle that can be read: {error}.") from None
