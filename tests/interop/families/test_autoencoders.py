"""What only the autoencoders have."""

import dataclasses
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.interop.parity import published
from vdm_jax.interop.cases.autoencoders import CASES
from vdm_jax.interop.component import read
from vdm_jax.interop.families.autoencoders_cogvideox import AUTOENCODER_COGVIDEOX
from vdm_jax.interop.families.autoencoders_kl import AUTOENCODER_KL, AUTOENCODER_TEMPORAL_DECODER, spell
from vdm_jax.interop.families.autoencoders_wan import AUTOENCODER_WAN
from vdm_jax.interop.parity import build_published, redraw

RESCALED = {  # the same network with other latents -> the scale of these
    "stable-diffusion-xl-vae": ("stable-diffusion-v1-5-vae", AUTOENCODER_KL, {"scaling_factor": 0.13025}),
    "CogVideoX-5b-vae": ("CogVideoX-2b-vae", AUTOENCODER_COGVIDEOX, {"scaling_factor": 0.7}),
    "CogVideoX1.5-5B-I2V-vae": (
        "CogVideoX-2b-vae",
        AUTOENCODER_COGVIDEOX,
        {"scaling_factor": 0.7, "invert_scale_latents": True},
    ),
}


@pytest.mark.parametrize("name", RESCALED)
def test_published_configs_that_differ_in_scale(name):
    network, family, scales = RESCALED[name]
    config = family.config(published(name))
    assert config == dataclasses.replace(family.config(published(network)), **scales)
    assert family.config(family.published_config(config)) == config


def test_published_scales_and_grids():
    wan = AUTOENCODER_WAN.config(published("Wan2.2-TI2V-5B-vae"))
    assert (wan.grid.frames, wan.grid.side) == (4, 16)
    assert wan.scale.scale[0] == 0.4765
    sd3 = AUTOENCODER_KL.config(published("stable-diffusion-3-vae"))
    np.testing.assert_allclose(sd3.scale.normalise(np.float32([[1.0609]])), [[1.5305]], rtol=1e-6)


def test_old_names_of_attention_are_read():
    assert spell("encoder.mid_block.attentions.0.query.weight") == "encoder.mid_block.attentions.0.to_q.weight"
    assert spell("decoder.mid_block.attentions.0.proj_attn.bias") == "decoder.mid_block.attentions.0.to_out.0.bias"
    assert spell("decoder.mid_block.attentions.0.to_out.0.bias") == "decoder.mid_block.attentions.0.to_out.0.bias"


@pytest.mark.parametrize("length", [1, 8, 17])
def test_cogvideox_counts_its_chunks_as_published(length):
    """Forward only, of every way in which a clip is cut; with gradients it is a case above."""
    torch = pytest.importorskip("torch", reason="the published class is the oracle")
    pytest.importorskip("diffusers", reason="the published class is the oracle")
    case = next(case for case in CASES if case.family is AUTOENCODER_COGVIDEOX)
    theirs = build_published(case.family, case.published)
    redraw(theirs, case.std)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(Path(folder) / "vae")
        ours = read(Path(folder) / "vae").network()
    clip = np.random.default_rng(0).standard_normal((1, length, 4, 8, 3)).astype(np.float32)
    with torch.no_grad():
        posterior = theirs.encode(torch.from_numpy(clip).permute(0, 4, 1, 2, 3)).latent_dist
        decoded = theirs.decode(posterior.mean).sample.permute(0, 2, 3, 4, 1).numpy()
    mean = jax.jit(lambda x: ours.encode(x).mean)(clip)
    np.testing.assert_allclose(mean, posterior.mean.permute(0, 2, 3, 4, 1).numpy(), rtol=1e-4, atol=1e-5)
    back = jax.jit(ours.decode)(mean)
    assert back.shape == clip.shape
    np.testing.assert_allclose(back, decoded, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "name", "change", "message"),
    [
        (AUTOENCODER_KL, "stable-diffusion-v1-5-vae", {"act_fn": "relu"}, "act_fn='relu' is not supported"),
        (
            AUTOENCODER_KL,
            "stable-diffusion-v1-5-vae",
            {"up_block_types": ["UpDecoderBlock2D"] * 3 + ["AttnUpDecoderBlock2D"]},
            r"up_block_types\[3\]='AttnUpDecoderBlock2D' is not supported",
        ),
        (
            AUTOENCODER_TEMPORAL_DECODER,
            "stable-video-diffusion-vae",
            {"layers_per_block": 3},
            "layers_per_block=3 is not supported",
        ),
        (AUTOENCODER_WAN, "Wan2.1-vae", {"attn_scales": [0.5]}, r"attn_scales=\[0.5\] is not supported"),
        (AUTOENCODER_WAN, "Wan2.1-vae", {"temporal_downsample": []}, "did you mean 'temperal_downsample'"),
        (AUTOENCODER_WAN, "Wan2.1-vae", {"scale_factor_spatial": 16}, "scale_factor_spatial=16 is not supported"),
        (AUTOENCODER_COGVIDEOX, "CogVideoX-2b-vae", {"use_quant_conv": True}, "use_quant_conv=True is not supported"),
    ],
)
def test_options_they_do_not_have_are_refused(family, name, change, message):
    with pytest.raises(ValueError, match=message):
        family.config(published(name) | change)
