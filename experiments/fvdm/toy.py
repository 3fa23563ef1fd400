"""The toy of FVDM's claim: one white printed digit that bounces in a black frame, and a small factorised DiT.

clip      8 frames of 16x16, averaged to a latent of 8x8 with one channel, which is scaled to a deviation of about 1
model     3 units (a spatial and a temporal block each) of width 64, one token a frame
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.loading.shrinking import averaged
from data_pipelines.worlds.digits.world import DigitsConfig
from data_pipelines.worlds.digits.world import clip as digits_clip
from data_pipelines.worlds.drawing.glyphs import Hand
from vdm_jax.diffusion import VP
from vdm_jax.diffusion.time_sampling import Uniform
from vdm_jax.evaluation.places import bright_places
from vdm_jax.models.dit import DiT, DiTConfig
from vdm_jax.objectives.denoising import DenoisingObjective
from vdm_jax.sampling import Known, make_denoiser, replace_known, sample, uniform
from vdm_jax.training.ema import EMAConfig
from vdm_jax.training.fit import Fitted, Trainer, batches
from vdm_jax.training.optimizer import OptimizerConfig
from vdm_jax.training.recipe import plain
from vdm_jax.training.state import NetworkDefinitions

FRAMES, SIDE, BATCH = 8, 8, 32
MODEL = DiTConfig(
    channels=1,
    patch=(1, SIDE, SIDE),
    dim=64,
    depth=3,
    heads=2,
    mlp_dim=128,
    attention="factorised",
    rope=False,
    positions="learned",
    grid=(FRAMES, 1, 1),
)
PROCESS = VP(prediction="x0")
STEPS = 16  # of DDIM
SCALE = 3.0  # of latents, as the model sees them


def clips(count: int, seed: int, frames: int = FRAMES) -> np.ndarray:
    """Latents of the world's clips, float32 `[N, T, 8, 8, 1]` in [-1, 1]."""
    world = DigitsConfig(
        height=2 * SIDE,
        width=2 * SIDE,
        frames=frames,
        digits=1,
        colours=("white",),
        size=(0.45, 0.45),
        hand=Hand(wobble=0.0, lean=0.0, turn=0.0, narrow=1.0, pen=(0.45, 0.45)),
    )
    video = np.stack([digits_clip(world, index, seed).video[..., :1] for index in range(count)])
    return averaged(video, 2) / 127.5 - 1.0


def train(independent: float, video: np.ndarray, steps: int, seed: int) -> Fitted:
    """A model whose clips had a time per frame with this probability."""
    objective = DenoisingObjective(dataclasses.replace(PROCESS, times=Uniform(independent=independent)))
    optimizer = OptimizerConfig(
        "muon", learning_rate=2e-2, schedule="wsd", warmup=50, decay_fraction=0.5, weight_decay=0.0
    )
    trainer = Trainer(
        lambda rngs: {"backbone": DiT(MODEL, rngs)}, plain(objective, optimizer, steps), EMAConfig((0.99,))
    )
    return trainer.run(batches({"video": SCALE * jnp.asarray(video)}, BATCH, seed), seed)


def sampler(networks: NetworkDefinitions, way: str):
    """`generate(params, key, mask [N, T], value [N, T, 8, 8, 1])`; `way` is how given frames are shown."""

    def generate(params, key, mask, value):
        denoiser = make_denoiser(PROCESS, networks.merge(params)["backbone"])
        prior_key, given_key = jax.random.split(key)
        x_T = PROCESS.prior(prior_key, value)
        known, tau = Known(mask, SCALE * value), uniform(PROCESS.levels(STEPS), FRAMES)
        if way == "clean":
            return sample(denoiser, PROCESS, x_T, tau, {}, known=known) / SCALE
        noise = jax.random.normal(given_key, value.shape)
        return sample(replace_known(denoiser, PROCESS, known, noise, way), PROCESS, x_T, tau, {}) / SCALE

    return jax.jit(generate)


def places(video: np.ndarray) -> np.ndarray:
    """The digit's centre in each frame, `[N, T, 2]` in pixels of the clip."""
    return bright_places(video, pixel=2.0)[..., 0, :]
