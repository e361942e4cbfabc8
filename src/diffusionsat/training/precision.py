"""Autocast, and initial weights that a seed decides."""

import contextlib
from collections.abc import Iterator

import torch

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextlib.contextmanager
def autocast(precision: str, device: torch.device) -> Iterator[None]:
    """Compute in a precision, with weights in float32."""
    dtype = _DTYPES.get(precision, torch.bfloat16)
    with torch.autocast(device.type, dtype, enabled=precision in _DTYPES):
        yield


@contextlib.contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Draw initial weights from a seed; torch's own generator is afterwards as it was before."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
        yield
