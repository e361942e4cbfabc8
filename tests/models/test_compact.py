import pytest
import torch
from steering import SIZES

from diffusionsat import Metadata
from diffusionsat.models.compact.autoencoder import CompactAutoencoder
from diffusionsat.models.compact.denoiser import CompactDenoiser
from diffusionsat.models.compact.text import TextEncoder, from_bert
from diffusionsat.models.encodings import numbers


def randomised(network, seed=0):
    """The network with every parameter drawn anew, so that nothing that starts at zero hides a fault."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


@pytest.fixture(scope="module")
def denoiser():
    return randomised(CompactDenoiser(**SIZES))


def inputs(batch=2, side=8, tokens=5):
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(batch, tokens, 24, generator=generator)
    mask = torch.ones(batch, tokens, dtype=torch.bool)
    known = numbers([Metadata(lon=7, lat=47, gsd=10, date="2019-07")] * batch)
    return (
        torch.randn(batch, 4, side, side, generator=generator),
        torch.full((batch,), 0.5),
        text,
        mask,
        known,
    )


@torch.no_grad()
def test_padding_of_the_text_changes_nothing(denoiser):
    x, time, text, mask, known = inputs()
    padded = torch.cat([text, torch.full((2, 3, 24), 7.0)], dim=1)
    padded_mask = torch.cat([mask, torch.zeros(2, 3, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(
        denoiser(x, time, text, mask, known), denoiser(x, time, padded, padded_mask, known)
    )


@torch.no_grad()
@pytest.mark.parametrize("part", range(5))
def test_every_input_reaches_the_output(denoiser, part):
    given = list(inputs())
    before = denoiser(*given)
    changed = {
        0: given[0] + 0.1,
        1: given[1] * 0.5,
        2: given[2].flip(1) * 1.1,
        3: given[3].clone(),
        4: given[4].clone(),
    }[part]
    if part == 3:
        changed[:, -1] = False
    if part == 4:
        changed[:, 2] = torch.nan
    given[part] = changed
    assert (denoiser(*given) - before).abs().max() > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("side", [2, 6, 16])
def test_sizes(denoiser, side):
    x, *rest = inputs(side=side)
    out = denoiser(x, *rest)
    assert out.shape == x.shape
    assert out.isfinite().all()


@torch.no_grad()
def test_images_of_a_batch_are_independent(denoiser):
    given = inputs(batch=3)
    together = denoiser(*given)
    for i in range(3):
        torch.testing.assert_close(
            together[i : i + 1], denoiser(*(g[i : i + 1] for g in given)), rtol=1e-4, atol=1e-5
        )


def test_levels_and_attention_must_agree():
    with pytest.raises(ValueError, match="attention has 1 entries for 2 levels"):
        CompactDenoiser(channels=(16, 32), attention=(True,))


@pytest.fixture(scope="module")
def autoencoder():
    return randomised(CompactAutoencoder(encoder_channels=(16, 16), decoder_channels=(16, 16)))


@torch.no_grad()
def test_a_tile_decodes_as_the_whole(autoencoder):
    latents = torch.randn(1, 4, 40, 40, generator=torch.Generator().manual_seed(0))
    halo = autoencoder.halo
    assert halo == 1 + 6 + 4
    whole = autoencoder.decode(latents)
    tile = autoencoder.decode(latents[:, :, 20 - halo : 24 + halo, 20 - halo : 24 + halo])
    torch.testing.assert_close(
        tile[:, :, 4 * halo : 4 * halo + 16, 4 * halo : 4 * halo + 16], whole[:, :, 80:96, 80:96]
    )


@torch.no_grad()
def test_latents_are_normalised(autoencoder):
    autoencoder.latent_shift.fill_(3.0)
    autoencoder.latent_scale.fill_(2.0)
    image = torch.rand(2, 3, 16, 24) * 2 - 1
    latents = autoencoder.encode(image)
    assert latents.shape == (2, 4, 4, 6)
    torch.testing.assert_close(latents * 2 + 3, autoencoder.moments(image)[0])
    torch.testing.assert_close(autoencoder.decode(latents), autoencoder.decode_raw(latents * 2 + 3))


@torch.no_grad()
def test_text_encoder_is_bert():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=16,
    )
    torch.manual_seed(0)
    theirs = transformers.BertModel(config, add_pooling_layer=False).eval()
    ours = TextEncoder(vocabulary=50, width=32, layers=2, heads=4, hidden=48, positions=12).eval()
    ours.load_state_dict(from_bert(theirs.state_dict(), 12))
    ids = torch.randint(0, 50, (3, 9))
    mask = torch.arange(9) < torch.tensor([[9], [4], [1]])
    expected = theirs(ids, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(ours(ids, mask)[mask], expected[mask], rtol=1e-4, atol=1e-5)
