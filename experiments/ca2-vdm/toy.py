"""The toy of Ca2-VDM's claim: a white ball that bounces in a black box, and a small factorised DiT.

clip      20 frames of 16x16, averaged to a latent of 8x8 with one channel: up to 16 given, 4 generated
model     3 units (a spatial and a temporal block each) of width 64, one token a frame
"""

import jax.numpy as jnp
import numpy as np

from data_pipelines.loading.shrinking import averaged
from data_pipelines.worlds.bounce.world import BounceConfig
from data_pipelines.worlds.bounce.world import clip as bounce_clip
from vdm_jax.diffusion import VP
from vdm_jax.diffusion.masks import Prefix
from vdm_jax.models.dit import DiT, DiTConfig
from vdm_jax.objectives.denoising import DenoisingObjective
from vdm_jax.sampling.continuing import Continuing
from vdm_jax.training.ema import EMAConfig
from vdm_jax.training.fit import Fitted, Trainer, batches
from vdm_jax.training.optimizer import OptimizerConfig
from vdm_jax.training.recipe import plain

SIDE, CHUNK, KEEP, FIRST, BATCH = 8, 4, 16, 4, 32
FRAMES = KEEP + CHUNK
PROCESS = VP(prediction="x0")
STEPS = 8  # of DDIM
DIRT, DIRT_SEEN = 0.1, 0.05  # levels of given frames in training and in sampling, as published


def model(causal: bool) -> DiTConfig:
    """Ours, or the baseline: the same parameters, seen both ways and with places that do not go round."""
    return DiTConfig(
        channels=1,
        patch=(1, SIDE, SIDE),
        dim=64,
        depth=3,
        heads=2,
        mlp_dim=128,
        attention="factorised",
        rope=False,
        positions="apart",
        grid=(FRAMES, 1, 1),
        causal=causal,
        cyclic=causal,
        known_merge=True,
        prefix=3,
    )


def clips(count: int, seed: int, frames: int = FRAMES) -> np.ndarray:
    """Latents of the world's clips, float32 `[N, T, 8, 8, 1]` in [-1, 1]."""
    world = BounceConfig(
        height=2 * SIDE,
        width=2 * SIDE,
        frames=frames,
        balls=1,
        colours=("white",),
        radius=(0.18, 0.2),
        speed=(0.6, 0.9),
        gravity=0.0,
        restitution=1.0,
    )
    video = np.stack([bounce_clip(world, index, seed).video[..., :1] for index in range(count)])
    return averaged(video, 2) / 127.5 - 1.0


def train(causal: bool, dirt: float, video: np.ndarray, steps: int, seed: int) -> Fitted:
    """A model that continues videos; `dirt` is the level at which given frames are shown."""
    tasks = Prefix(first=FIRST, step=CHUNK, chunk=CHUNK, cyclic=causal)
    objective = DenoisingObjective(PROCESS, masks=tasks, known_level=dirt)
    optimizer = OptimizerConfig("muon", learning_rate=3e-3, schedule="wsd", warmup=50, weight_decay=0.0)
    trainer = Trainer(
        lambda rngs: {"backbone": DiT(model(causal), rngs)}, plain(objective, optimizer, steps), EMAConfig((0.99,))
    )
    return trainer.run(batches({"video": jnp.asarray(video)}, BATCH, seed), seed)


def driver(kind: type[Continuing], fitted: Fitted, dirt: float, steps: int = STEPS) -> Continuing:
    """How this model's videos go on: `ChunkAutoregressive` or `Recomputing`."""
    return kind(
        lambda params: fitted.networks.merge(params)["backbone"],
        PROCESS,
        PROCESS.levels(steps),
        (SIDE, SIDE, 1),
        chunk=CHUNK,
        keep=KEEP,
        trained=FRAMES,
        first=FIRST,
        given_level=dirt,
    )


def places(video: np.ndarray) -> np.ndarray:
    """The ball's centre in each frame, `[N, T, 2]` in pixels of the clip: the mean place of what is bright."""
    bright = np.clip((np.asarray(video)[..., 0] + 1) / 2, 0, 1) ** 2
    at = 2 * np.arange(SIDE) + 1.0
    total = np.maximum(bright.sum((2, 3)), 1e-6)
    return np.stack([(bright.sum(2) * at).sum(-1) / total, (bright.sum(3) * at).sum(-1) / total], -1)
