"""The toy of FVDM's claim: one white digit that bounces in a black frame, and a small factorised DiT in pixel space.

clip      8 frames of 16x16, one channel; 2,000 of them
model     3 units (a spatial and a temporal block each) of width 64, patch 1x4x4: 128 tokens
"""

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.worlds.digits.world import DigitsConfig
from data_pipelines.worlds.digits.world import clip as digits_clip
from vdm_jax.diffusion import VP
from vdm_jax.diffusion.time_sampling import Uniform
from vdm_jax.models.dit import DiT, DiTConfig
from vdm_jax.objectives.denoising import DenoisingObjective
from vdm_jax.sampling import Known, make_denoiser, replace_known, sample, uniform
from vdm_jax.training.ema import EMAConfig
from vdm_jax.training.fit import Fitted, Trainer, batches
from vdm_jax.training.optimizer import OptimizerConfig
from vdm_jax.training.recipe import plain
from vdm_jax.training.state import NetworkDefinitions

FRAMES, SIDE, BATCH = 8, 16, 32
MODEL = DiTConfig(
    channels=1,
    patch=(1, 4, 4),
    dim=64,
    depth=3,
    heads=2,
    mlp_dim=128,
    attention="factorised",
    rope=False,
    positions="learned",
    grid=(FRAMES, SIDE // 4, SIDE // 4),
)
STEPS = 16  # of DDIM
PROCESS = VP(prediction="v")


def clips(count: int, seed: int, frames: int = FRAMES) -> np.ndarray:
    """Clips of the world, float32 `[N, T, 16, 16, 1]` in [-1, 1]."""
    world = DigitsConfig(height=SIDE, width=SIDE, frames=frames, digits=1, colours=("white",))
    video = np.stack([digits_clip(world, index, seed).video[..., :1] for index in range(count)])
    return video.astype(np.float32) / 127.5 - 1.0


def train(independent: float, video: np.ndarray, steps: int, seed: int) -> Fitted:
    """A model whose clips had a time per frame with this probability."""
    objective = DenoisingObjective(VP(prediction="v", times=Uniform(independent=independent)))
    optimizer = OptimizerConfig("muon", learning_rate=3e-3, schedule="wsd", warmup=50, weight_decay=0.0)
    trainer = Trainer(
        lambda rngs: {"backbone": DiT(MODEL, rngs)}, plain(objective, optimizer, steps), EMAConfig((0.99,))
    )
    return trainer.run(batches({"video": jnp.asarray(video)}, BATCH, seed), seed)


def sampler(networks: NetworkDefinitions, way: str):
    """`generate(params, key, mask [N, T], value [N, T, 16, 16, 1])`; `way` is how given frames are shown."""

    def generate(params, key, mask, value):
        denoiser = make_denoiser(PROCESS, networks.merge(params)["backbone"])
        prior_key, given_key = jax.random.split(key)
        x_T = PROCESS.prior(prior_key, value)
        known, tau = Known(mask, value), uniform(PROCESS.levels(STEPS), FRAMES)
        if way == "clean":
            return sample(denoiser, PROCESS, x_T, tau, {}, known=known)
        noise = jax.random.normal(given_key, value.shape)
        return sample(replace_known(denoiser, PROCESS, known, noise, way), PROCESS, x_T, tau, {})

    return jax.jit(generate)


def places(video: np.ndarray) -> np.ndarray:
    """The digit's centre in each frame, `[N, T, 2]` in pixels: the mean place of what is bright."""
    bright = np.clip((np.asarray(video)[..., 0] + 1) / 2, 0, 1) ** 2
    at = np.arange(SIDE) + 0.5
    total = np.maximum(bright.sum((2, 3)), 1e-6)
    return np.stack([(bright.sum(2) * at).sum(-1) / total, (bright.sum(3) * at).sum(-1) / total], -1)
