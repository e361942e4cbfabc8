"""The loop that every training shares: steps counted in images, a log, checkpoints, an exact resume."""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffusionsat.training.ema import PowerAverage
from diffusionsat.training.interruption import Interruption
from diffusionsat.training.muon import Muon

log = logging.getLogger(__name__)


def train(
    network: nn.Module,
    optimiser: Muon,
    folder: Path,
    *,
    images: int,
    log_every: int,
    rate: Callable[[int], float],
    loss: Callable[[int], tuple[Tensor, int]],
    figures: Callable[[], dict[str, Any]],
) -> tuple[PowerAverage, bool]:
    """Train until some images are seen, or until SIGTERM or Ctrl-C; then save and return.

    Args:
        network: Changed in place.
        optimiser: Of its parameters.
        folder: Where ``last.pt`` and ``log.jsonl`` lie; an existing ``last.pt`` is taken up.
        images: To see in all.
        log_every: Images between two lines of the log, each with a checkpoint.
        rate: Factor of the learning rates after so many images.
        loss: Loss of the batch after so many images, and its number of images.
        figures: What else the log tells; called while the network has its averaged weights.

    Returns:
        The averaged weights, and whether all images have been seen.
    """
    folder.mkdir(parents=True, exist_ok=True)
    average, seen, step = PowerAverage(network), 0, 0
    last = folder / "last.pt"
    if last.exists():
        state = torch.load(last, weights_only=True)
        network.load_state_dict(state["network"])
        optimiser.resume(state["optimiser"])
        average.weights, seen, step = state["average"], state["seen"], state["step"]
        log.info("taken up at %d images", seen)

    def save() -> None:
        weights = {
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "average": average.weights,
        }
        partial = last.with_suffix(".part")
        torch.save(weights | {"seen": seen, "step": step}, partial)
        partial.replace(last)

    losses, started, logged = [], time.monotonic(), seen
    with Interruption() as interruption:
        while seen < images and not interruption:
            optimiser.set_rate(rate(seen))
            value, count = loss(seen)
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            optimiser.step()
            seen, step = seen + count, step + 1
            average.update(network, step)
            losses.append(value.item())
            if seen - logged >= log_every:
                line = {"seen": seen, "loss": round(float(np.mean(losses)), 5)}
                line["images_per_s"] = round((seen - logged) / (time.monotonic() - started), 1)
                with average.applied_to(network):
                    line |= figures()
                with (folder / "log.jsonl").open("a") as file:
                    file.write(json.dumps(line) + "\n")
                log.info("%s", line)
                save()
                losses, started, logged = [], time.monotonic(), seen
    save()
    return average, seen >= images


def trapezoid(seen: int, images: int, warm_up: int, decay: int, floor: float = 0.0) -> float:
    """Factor of the learning rates: a linear rise, a plateau, a linear fall to ``floor`` at the end."""
    return min(1.0, (seen + 1) / warm_up) * max(floor, min(1.0, (images - seen) / decay))
