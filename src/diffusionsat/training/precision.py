"""Autocast, kinds of attention, and initial weights that a seed decides."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextlib.contextmanager
def autocast(precision: str, device: torch.device) -> Iterator[None]:
    """Compute in a precision, with weights in float32."""
    dtype = _DTYPES.get(precision, torch.bfloat16)
    with torch.autocast(device.type, dtype, enabled=precision in _DTYPES):
        yield


def attending(device: torch.device, *, few: bool = False) -> contextlib.AbstractContextManager[Any]:
    """The kinds of attention that train well on a device.

    Args:
        device: Where it is computed.
        few: Whether there are a few dozen tokens at most.
    """
    if device.type == "cuda":
        # With a mask cuDNN's gives NaN on the way back at times (PyTorch 2.11 on Hopper, its issue 196678).
        return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])
    # At a few dozen tokens the plain form trains a third faster on a CPU than the fused one.
    return sdpa_kernel(SDPBackend.MATH) if few and device.type == "cpu" else contextlib.nullcontext()


@contextlib.contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Draw initial weights from a seed; torch's own generator is afterwards as it was before."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
        yield
