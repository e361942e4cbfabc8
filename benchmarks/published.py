"""The published model at its true size, with random weights: seconds and peak memory, as one table.

    python benchmarks/published.py [--steps 4] [--size 256] [--threads N] [--folder DIR]

Our `generate` stands beside diffusers' own StableDiffusionPipeline, with the same network, steps, guidance
and precision. Every row is a fresh process; a step's time is the lowest of its steps after the first. Names
and shapes of the weights are those of tests/fixtures/manifests. DIR (20 GB) keeps them for another run.
"""

import argparse
import json
import math
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

MANIFESTS = Path(__file__).parents[1] / "tests/fixtures/manifests"
PARTS = {
    "single/checkpoint-1/unet": ("satunet_sd21", "diffusion_pytorch_model.bin"),
    "single/vae": ("vae_sd21_old_names", "diffusion_pytorch_model.bin"),
    "single/text_encoder": ("clip_text_sd21", "pytorch_model.bin"),
    "superres/controlnet": ("controlnet2d_fmow_superres_c10_scale2", "diffusion_pytorch_model.bin"),
    "texas/controlnet": ("controlnet3d_c3_temporal", "diffusion_pytorch_model.bin"),
}


def write_weights(folder: Path) -> None:
    """A release of random weights, float32, pickled as the authors' are."""
    import torch

    from diffusionsat.testing.published import tiny_published

    with tempfile.TemporaryDirectory() as small:
        tiny_published(Path(small))
        for name in ("tokenizer", "scheduler", "model_index.json"):
            copy = shutil.copytree if (Path(small) / "single" / name).is_dir() else shutil.copy
            copy(Path(small) / "single" / name, folder / "single" / name)
    generator = torch.Generator().manual_seed(0)
    for part, (manifest, file) in PARTS.items():
        described = json.loads((MANIFESTS / f"{manifest}.json").read_text())
        tensors = {}
        for name, about in described["state_dict"].items():
            shape = about["shape"]
            if about["dtype"] != "float32":
                tensors[name] = torch.arange(shape[-1]).expand(shape).clone()
            elif len(shape) > 1:
                scale = 1 / math.sqrt(math.prod(shape[1:]))
                tensors[name] = torch.randn(shape, generator=generator) * scale
            else:
                tensors[name] = torch.full(shape, 1.0 if name.endswith("weight") else 0.0)
        (folder / part).mkdir(parents=True, exist_ok=True)
        torch.save(tensors, folder / part / file)
        (folder / part / "config.json").write_text(json.dumps(described["config"]))


def ours(folder: Path, precision: str, steps: int, size: int) -> dict:
    """Our `generate`."""
    from diffusionsat import DiffusionSat, Metadata

    start = time.perf_counter()
    sat = DiffusionSat.from_pretrained(folder / "single", device="cpu", precision=precision)
    loaded, marks = time.perf_counter(), []
    sat.generate(
        "a river",
        Metadata(lon=7.44, lat=46.95, gsd=1),
        size=(size, size),
        steps=steps,
        on_step=lambda _: marks.append(time.perf_counter()),
    )
    return _figures(start, loaded, marks) | {"precision": sat.precision}


def theirs(folder: Path, precision: str, steps: int, size: int) -> dict:
    """Diffusers' StableDiffusionPipeline on the same network."""
    import torch
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    from diffusionsat.checkpoints.published import read_text_encoder, read_tokenizer, read_unet, read_vae

    start, root = time.perf_counter(), folder / "single"
    pipe = StableDiffusionPipeline(
        unet=read_unet(root / "checkpoint-1/unet"),
        vae=read_vae(root / "vae"),
        text_encoder=read_text_encoder(root / "text_encoder"),
        tokenizer=read_tokenizer(root / "tokenizer"),
        scheduler=DDIMScheduler.from_pretrained(root / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    pipe.set_progress_bar_config(disable=True)
    loaded, marks = time.perf_counter(), []

    def mark(pipe, i, t, values):
        marks.append(time.perf_counter())
        return values

    pipe("a river", height=size, width=size, num_inference_steps=steps, callback_on_step_end=mark)
    return _figures(start, loaded, marks)


def _figures(start: float, loaded: float, marks: list[float]) -> dict:
    step = min(after - before for before, after in pairwise(marks))
    return {"load_s": loaded - start, "step_s": step, "image_s": time.perf_counter() - loaded}


def control(folder: Path, precision: str, steps: int, size: int) -> dict:
    """One guided step of the U-Net under each ControlNet."""
    import torch

    from diffusionsat.checkpoints.published import read_controlnet, read_unet

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    unet = read_unet(folder / "single/checkpoint-1/unet").to(dtype=dtype)
    latents = torch.zeros(2, 4, size // 8, size // 8, dtype=dtype)
    text, numbers = torch.zeros(2, 77, 1024, dtype=dtype), torch.zeros(2, 7)
    conditions = {"superres": (2, 10, size // 2, size // 2), "texas": (2, 3, 3, size, size)}
    figures = {}
    for name, shape in conditions.items():
        network = read_controlnet(folder / name / "controlnet").to(dtype=dtype)
        times = []
        for _ in range(2):
            start = time.perf_counter()
            with torch.inference_mode():
                residuals = network(latents, 500, text, torch.zeros(shape, dtype=dtype), metadata=numbers)
                prediction = unet(
                    latents,
                    500,
                    text,
                    metadata=numbers,
                    down_block_additional_residuals=residuals.down_block_res_samples,
                    mid_block_additional_residual=residuals.mid_block_res_sample,
                ).sample
            times.append(time.perf_counter() - start)
        assert prediction.isfinite().all()
        figures[f"{name}_step_s"] = min(times)
        del network
    return figures


def conversion(folder: Path, precision: str, steps: int, size: int) -> dict:
    """`convert` to fp16 (for bf16) or fp32, and its peak memory over the U-Net's file."""
    from diffusionsat.checkpoints.conversion import convert

    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        start = time.perf_counter()
        convert(
            folder / "single",
            Path(scratch) / "made",
            precision="fp32" if precision == "fp32" else "fp16",
        )
        seconds = time.perf_counter() - start
    whole = (folder / "single/checkpoint-1/unet/diffusion_pytorch_model.bin").stat().st_size
    return {"convert_s": seconds, "peak_over_unet": _peak_bytes() / whole}


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


MEASURES = {"ours": ours, "diffusers": theirs, "control": control, "convert": conversion}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="where the weights are kept")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", choices=MEASURES, nargs="+", default=list(MEASURES))
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        import torch

        torch.set_num_threads(args.threads)
        what, precision = args.measure
        figures = MEASURES[what](args.folder, precision, args.steps, args.size)
        print(json.dumps(figures | {"peak_gb": _peak_bytes() / 1e9}))
        return
    folder = args.folder or Path(tempfile.mkdtemp())
    try:
        if not (folder / "texas/controlnet/config.json").is_file():
            (folder / "single").mkdir(parents=True, exist_ok=True)
            write_weights(folder)
        print(f"{platform.machine()}, {args.threads} threads, {args.size} px, {args.steps} steps\n")
        print("| | precision | figures |\n|---|---|---|")
        for what in args.only:
            for precision in ("fp32", "bf16"):
                options = ["--folder", folder, "--steps", args.steps, "--size", args.size]
                options += ["--threads", args.threads, "--measure", what, precision]
                command = [sys.executable, __file__, *map(str, options)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                figures = json.loads(done.stdout.splitlines()[-1])
                said = ", ".join(
                    f"{k} {v if isinstance(v, str) else round(v, 2)}" for k, v in figures.items()
                )
                print(f"| {what} | {precision} | {said} |", flush=True)
    finally:
        if args.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
