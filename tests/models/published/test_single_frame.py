"""One condition frame in bfloat16, with what is in fresh memory made visible."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("diffusers", reason="the extra [published] is not installed")

EMBED = """
import torch
from diffusionsat.models.published.controlnet_3d import ConditionEmbedding3D

torch.manual_seed(0)
for channels in (3, 13):
    embed = ConditionEmbedding3D(8, channels, (16, 32)).eval()
    torch.nn.init.normal_(embed.conv_out.weight)
    frame = torch.rand(1, channels, 1, 64, 64)
    with torch.inference_mode():
        exact, rough = embed(frame), embed.bfloat16()(frame.bfloat16()).float()
    torch.testing.assert_close(rough, exact, rtol=0.1, atol=0.1)
"""


def test_a_single_frame_reads_no_memory_that_nobody_wrote():
    environment = os.environ | {"MALLOC_PERTURB_": "1"}  # glibc: fresh memory holds numbers near the largest
    done = subprocess.run([sys.executable, "-c", EMBED], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
