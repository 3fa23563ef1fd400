"""FreeNoise of diffusers on a UNet with motion modules at random weights: the windows of its blocks, and its noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.adapters.windows import window_attention
from vdm_jax.diffusion.windows import Windows
from vdm_jax.interop.component import read
from vdm_jax.interop.families.family import NETWORK
from vdm_jax.interop.families.unet_motion import UNET_MOTION
from vdm_jax.interop.parity import build_published, redraw, relative_error
from vdm_jax.sampling.noise import Rescheduled

torch = pytest.importorskip("torch", reason="the published class is the oracle")
free_noise = pytest.importorskip("diffusers.pipelines.free_noise_utils", reason="the published class is the oracle")

FRAMES, SIZE, STRIDE = 8, 4, 2
OPTIONS = {
    "block_out_channels": [8], "layers_per_block": 1, "norm_num_groups": 4, "cross_attention_dim": 6,
    "num_attention_heads": 2, "motion_num_attention_heads": 2, "motion_max_seq_length": SIZE,
    "down_block_types": ["DownBlockMotion"], "up_block_types": ["UpBlockMotion"],
}  # fmt: skip


class Published(free_noise.AnimateDiffFreeNoiseMixin):
    """What the mixin asks of a pipeline."""

    device, dtype = torch.device("cpu"), torch.float32
    vae_scale_factor = 1

    def __init__(self, unet):
        self.unet = self.motion_adapter = unet
        unet.config.motion_max_seq_length = SIZE


@pytest.fixture(scope="module")
def theirs():
    unet = build_published(UNET_MOTION, OPTIONS)
    redraw(unet, 0.2)
    return unet


@pytest.mark.parametrize("weights", ["triangular", "uniform"])
def test_windows_around_whole_blocks_are_those_of_diffusers(theirs, weights, tmp_path):
    theirs.save_pretrained(tmp_path)
    component = read(tmp_path)
    published = Published(theirs)
    published.enable_free_noise(SIZE, STRIDE, {"triangular": "pyramid", "uniform": "flat"}[weights])
    draw = np.random.default_rng(0)
    x = draw.standard_normal((1, FRAMES, 8, 8, 4), np.float32)
    text = draw.standard_normal((1, 3, 6), np.float32)
    with torch.no_grad():
        per_frame = torch.from_numpy(text).repeat_interleave(FRAMES, 0)  # as its pipelines do
        wanted = theirs(torch.from_numpy(x).movedim(-1, 1), 500, per_frame).sample.movedim(1, -1).numpy()
    published.disable_free_noise()

    def ours(params, x):
        network = component.family.define(component.config).merge({NETWORK: params})[NETWORK]
        window_attention(network, Windows(SIZE, STRIDE, weights), FRAMES, whole_blocks=True)
        return network(x, jnp.full((1, FRAMES), 500.0), {"tokens": jnp.asarray(text)})

    assert relative_error(np.asarray(jax.jit(ours)(component.params, x)), wanted) < 1e-4


def test_noise_is_rescheduled_as_in_diffusers():
    published, frames = Published.__new__(Published), FRAMES + 4
    published._free_noise_context_length, published._free_noise_context_stride = SIZE, STRIDE
    published._free_noise_noise_type = "shuffle_context"
    first, again = (torch.Generator().manual_seed(3) for _ in range(2))
    shape = (1, 4, frames, 2, 2)
    noise = published._prepare_latents_free_noise(*shape, torch.float32, torch.device("cpu"), first)
    drawn = torch.randn(shape, generator=again)
    blocks = range((frames - SIZE) // STRIDE)
    permutations = np.stack([torch.randperm(STRIDE, generator=again).numpy() for _ in blocks])
    order = np.asarray(Rescheduled(SIZE, STRIDE).arrange(jnp.asarray(permutations)))
    assert len(set(order)) == SIZE
    np.testing.assert_array_equal(noise.numpy(), drawn.numpy()[:, :, order])
