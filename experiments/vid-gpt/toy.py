"""The toy of ViD-GPT's claim: a coloured ball that bounces in a box; a grey curtain hides all but the left edge.

clip      32 frames of 16x16, averaged to a latent of 8x8; the ball is out of sight for 8 to 12 frames and comes back
          in its colour, on its path
model     3 units (a spatial and a temporal block each) of width 64, one token a frame
"""

import jax.numpy as jnp
import numpy as np

from data_pipelines.loading.shrinking import averaged
from data_pipelines.worlds.bounce.world import COLOURS, BounceConfig
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

SIDE, OPEN, FRAMES, CHUNK, FIRST, BATCH = 8, 3, 32, 4, 4, 32  # OPEN: columns that are seen
HIDDEN = (8, 12)  # frames out of sight
NAMES = ("red", "green", "blue", "yellow")
PALETTE = np.array([COLOURS[name] for name in NAMES], np.float32) / 127.5 - 1.0
PROCESS = VP(prediction="x0")
STEPS = 8  # of DDIM


def model(causal: bool, frames: int) -> DiTConfig:
    """All arms have these parameters."""
    return DiTConfig(
        patch=(1, SIDE, SIDE),
        dim=64,
        depth=3,
        heads=2,
        mlp_dim=128,
        attention="factorised",
        rope=False,
        positions="apart",
        grid=(frames, 1, 1),
        causal=causal,
        known_merge=True,
        prefix=3,
    )


def clips(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Videos behind the curtain, float32 `[N, 32, 8, 8, 3]` in [-1, 1]; how much of the ball is in view, `[N, 32]`."""
    world = BounceConfig(
        height=2 * SIDE,
        width=2 * SIDE,
        frames=FRAMES,
        balls=1,
        colours=NAMES,
        radius=(0.16, 0.18),
        speed=(0.75, 1.1),
        gravity=0.0,
        restitution=1.0,
    )
    found, amounts, index = [], [], 0
    while len(found) < count:
        video = averaged(bounce_clip(world, index, seed).video.astype(np.float32) / 127.5 - 1.0, 2)
        amount = np.clip((video[:, :, :OPEN].max(-1) + 1) / 2, 0, 1).sum((1, 2))
        if hidden(amount) is not None:
            found.append(video)
            amounts.append(amount)
        index += 1
    video = np.stack(found)
    video[:, :, :, OPEN:] = 0.0
    return video, np.stack(amounts)


def hidden(amount: np.ndarray) -> tuple[int, int] | None:
    """The frame in which the ball goes out of sight, and that of its return; None for a clip that is no such story."""
    seen = amount > 0.2
    gone = np.flatnonzero(~seen[FIRST:])
    if not seen[FIRST // 2 : FIRST].all() or not len(gone):
        return None
    start = FIRST + int(gone[0])
    back = np.flatnonzero(seen[start:])
    if not len(back) or not HIDDEN[0] <= back[0] <= HIDDEN[1] or start + back[0] + CHUNK > FRAMES:
        return None
    return start, start + int(back[0])


def train(causal: bool, video: np.ndarray, tasks: Prefix, steps: int, seed: int) -> Fitted:
    """A model of clips of this length."""
    objective = DenoisingObjective(PROCESS, masks=tasks)
    optimizer = OptimizerConfig("muon", learning_rate=3e-3, schedule="wsd", warmup=50, weight_decay=0.0)
    config = model(causal, video.shape[1])
    trainer = Trainer(
        lambda rngs: {"backbone": DiT(config, rngs)}, plain(objective, optimizer, steps), EMAConfig((0.99,))
    )
    return trainer.run(batches({"video": jnp.asarray(video)}, BATCH, seed), seed)


def driver(kind: type[Continuing], fitted: Fitted, keep: int) -> Continuing:
    """How this model's videos go on, seeing so many frames."""
    return kind(
        lambda params: fitted.networks.merge(params)["backbone"],
        PROCESS,
        PROCESS.levels(STEPS),
        (SIDE, SIDE, 3),
        chunk=CHUNK,
        keep=keep,
        trained=keep + CHUNK,
        first=FIRST,
    )
