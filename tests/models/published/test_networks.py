"""What the published networks do beyond the published code's numbers."""

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers (extra [published]) is not installed")

from diffusionsat.models.published import ControlNetModel, ControlNetModel3D, SatUNet

SIZES = {
    "block_out_channels": (32, 48),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 16,
    "attention_head_dim": (2, 4),
    "use_linear_projection": True,
}
METADATA = torch.tensor([[500.0, 700.0, 10_000.0, 0.0, 300.0, 500.0, 400.0]])


def randomised(network):
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


@pytest.fixture(scope="module")
def unet():
    return randomised(SatUNet(up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), **SIZES))


def call(network, metadata, batch=2, **extra):
    generator = torch.Generator().manual_seed(1)
    x, text = torch.randn(batch, 4, 8, 8, generator=generator), torch.randn(batch, 3, 16, generator=generator)
    with torch.no_grad():
        return network(x.to(network.dtype), 500, text.to(network.dtype), metadata=metadata, **extra)


def test_unknown_metadata_is_zero(unet):
    zeros = call(unet, torch.zeros(2, 7)).sample
    for unknown in (None, torch.full((2, 7), torch.nan), torch.zeros(7), torch.zeros(1, 7)):
        torch.testing.assert_close(call(unet, unknown).sample, zeros)
    partial = METADATA.clone()
    partial[0, 2] = torch.nan
    expected = METADATA.clone()
    expected[0, 2] = 0
    torch.testing.assert_close(call(unet, partial).sample, call(unet, expected).sample)
    assert (call(unet, METADATA).sample - zeros).abs().max() > 1e-4


def test_one_row_serves_a_batch(unet):
    torch.testing.assert_close(call(unet, METADATA[0]).sample, call(unet, METADATA.expand(2, 7)).sample)


@pytest.mark.parametrize("shape", [(6,), (2, 8), (3, 7), (2, 7, 1)])
def test_other_shapes_are_refused(unet, shape):
    with pytest.raises(ValueError, match="longitude, latitude, gsd"):
        call(unet, torch.zeros(shape))


def test_half_precision_does_not_round_the_metadata(unet):
    """At 10,000 bfloat16 has steps of 64; a difference of 1 must still be seen as it is in float32."""
    import copy

    half = copy.deepcopy(unet).bfloat16()
    near = METADATA.clone()
    near[0, 2] += 1
    change = (call(unet, near).sample - call(unet, METADATA).sample).abs().max()
    seen = (call(half, near).sample - call(half, METADATA).sample).float().abs().max()
    assert change > 0
    assert seen > 0


@pytest.mark.parametrize("kind", [SatUNet, ControlNetModel, ControlNetModel3D])
def test_save_and_load(kind, unet, tmp_path):
    network = unet if kind is SatUNet else randomised(kind.from_unet(unet))
    network.save_pretrained(tmp_path)
    assert (tmp_path / "diffusion_pytorch_model.safetensors").is_file()
    loaded = kind.from_pretrained(tmp_path)
    for name, tensor in network.state_dict().items():
        assert loaded.state_dict()[name].equal(tensor)
    assert loaded.config["num_metadata"] == 7


def test_a_controlnet_starts_from_a_unet_and_changes_nothing(unet):
    for kind, condition in (
        (ControlNetModel, torch.rand(2, 5, 64, 64)),
        (ControlNetModel3D, torch.rand(2, 5, 3, 64, 64)),
    ):
        extra = {"use_temporal_transformer": True} if kind is ControlNetModel3D else {}
        network = kind.from_unet(unet, conditioning_in_channels=5, **extra).eval()
        assert network.conv_in.weight.equal(unet.conv_in.weight)
        assert network.metadata_embedding[3].linear_1.weight.equal(unet.metadata_embedding[3].linear_1.weight)
        out = call(network, METADATA, controlnet_cond=condition)
        assert all(not r.any() for r in out.down_block_res_samples)
        assert not out.mid_block_res_sample.any()


def test_conditions_that_do_not_fit_are_refused(unet):
    flat, deep = ControlNetModel.from_unet(unet), ControlNetModel3D.from_unet(unet)
    with pytest.raises(ValueError, match="10 bands; this ControlNet takes 3"):
        call(flat, None, controlnet_cond=torch.rand(2, 10, 64, 64))
    with pytest.raises(ValueError, match=r"becomes features of \(4, 4\), but the latents are \(8, 8\)"):
        call(flat, None, controlnet_cond=torch.rand(2, 3, 32, 32))
    with pytest.raises(ValueError, match=r"a 3D ControlNet takes \(B, C, T, H, W\)"):
        call(deep, None, controlnet_cond=torch.rand(2, 3, 64, 64))
    with pytest.raises(ValueError, match="cond_metadata has shape"):
        call(deep, None, controlnet_cond=torch.rand(2, 3, 2, 64, 64), cond_metadata=torch.zeros(2, 7, 3))
