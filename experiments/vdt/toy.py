"""The toy of VDT's claim: a red and a green ball in a box without gravity, and small DiTs in pixel space.

clip      16 frames of 16x16, a channel for each ball; 2,000 of them
model     3 units of temporal attention, spatial attention and MLP, width 96, patch 1x8x8: 64 tokens

Ways to show a model the 8 frames that go before 8 others: as further frames that are given (`concat`, which is the mask
model itself), their patches pooled and added to the embedding of the time (`adaln`), or read by cross-attention.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_pipelines.worlds.bounce.world import BounceConfig
from data_pipelines.worlds.bounce.world import clip as bounce_clip
from vdm_jax.diffusion import VP
from vdm_jax.diffusion.masks import Ends, MaskSampler, Mixture, Strided
from vdm_jax.models.dit import DiT, DiTConfig
from vdm_jax.nn.embeddings import sincos_table
from vdm_jax.objectives.denoising import DenoisingObjective
from vdm_jax.sampling import Known, make_denoiser, replace_known, sample, uniform
from vdm_jax.training.ema import EMAConfig
from vdm_jax.training.fit import Fitted, Trainer, batches
from vdm_jax.training.optimizer import OptimizerConfig
from vdm_jax.training.recipe import plain
from vdm_jax.training.state import NetworkDefinitions

FRAMES, SIDE, PATCH, BATCH, GIVEN, STEPS = 16, 16, 8, 16, 8, 16
TASKS = {"prediction": Ends(first=GIVEN), "interpolation": Strided(4), "generation": Ends()}
UNIFIED = Mixture(tuple(TASKS.values()))
PROCESS = VP(prediction="v", schedule="cosine")
MODEL = DiTConfig(
    channels=2,
    patch=(1, PATCH, PATCH),
    dim=96,
    depth=3,
    heads=3,
    mlp_dim=192,
    attention="factorised",
    temporal="attention_first",
    rope=False,
    positions="learned",
    grid=(FRAMES, SIDE // PATCH, SIDE // PATCH),
)
PATCHES = (SIDE // PATCH) ** 2
READ = dataclasses.replace(MODEL, text_dim=PATCH * PATCH * 2 + 96)


def clips(count: int, seed: int) -> np.ndarray:
    """Clips of the world, float32 `[N, 16, 16, 16, 2]` in [-1, 1]."""
    world = BounceConfig(SIDE, SIDE, FRAMES, balls=2, colours=("red", "green"), gravity=0.0, restitution=1.0)
    video = np.stack([bounce_clip(world, index, seed).video[..., :2] for index in range(count)])
    return video.astype(np.float32) / 127.5 - 1.0


def tokens(video: np.ndarray) -> np.ndarray:
    """Patches of the given frames with their places, `[N, 8 * 4, 128 + 96]`: what is read or pooled."""
    n, side = len(video), SIDE // PATCH
    patches = (
        video[:, :GIVEN].reshape(n, GIVEN, side, PATCH, side, PATCH, 2).swapaxes(3, 4).reshape(n, GIVEN * PATCHES, -1)
    )
    places = np.asarray(sincos_table((GIVEN, side, side), 96)).reshape(1, GIVEN * PATCHES, 96)
    return np.concatenate([patches, np.broadcast_to(places, (n, *places.shape[1:]))], axis=-1).astype(np.float32)


def pooled(rngs: nnx.Rngs) -> DiT:
    """A DiT that hears of the given frames through the embedding of the time alone."""
    model = DiT(dataclasses.replace(READ, pooled_text=True, text_projection="mlp"), rngs)
    model.units.spatial.cross = model.units.spatial.cross_norm = None
    return model


INJECTIONS = {"adaln": pooled, "cross": lambda rngs: DiT(READ, rngs)}


def train(
    video: np.ndarray, steps: int, seed: int, masks: MaskSampler | None, make=None, trains: tuple[str, ...] = ("*",)
) -> Fitted:
    """One model: on tasks, or with `make` of `INJECTIONS` on the last 8 frames by themselves."""
    objective = DenoisingObjective(PROCESS, masks=masks, known_way="shared", mean_over="all")
    optimizer = OptimizerConfig(learning_rate=3e-3, schedule="wsd", warmup=50, decay_fraction=0.4, weight_decay=0.0)
    make = make or (lambda rngs: DiT(MODEL, rngs))
    data = {"video": video} if masks is not None else {"video": video[:, GIVEN:], "tokens": tokens(video)}
    trainer = Trainer(
        lambda rngs: {"backbone": make(rngs)}, plain(objective, optimizer, steps, trains), EMAConfig((0.99,))
    )
    return trainer.run(batches(jax.tree.map(jnp.asarray, data), BATCH, seed), seed)


def sampler(networks: NetworkDefinitions, frames: int = FRAMES):
    """`generate(params, key, mask [N, T], value, cond)`: given frames enter clean, at everybody's level."""

    def generate(params, key, mask, value, cond):
        denoiser = make_denoiser(PROCESS, networks.merge(params)["backbone"])
        denoiser = replace_known(denoiser, PROCESS, Known(mask, value), way="shared")
        return sample(denoiser, PROCESS, PROCESS.prior(key, value), uniform(PROCESS.levels(STEPS), frames), cond)

    return jax.jit(generate)


def places(video: np.ndarray) -> np.ndarray:
    """Centres of the balls, `[N, T, 2 balls, 2]` in pixels: the mean place of what is bright in each channel."""
    bright = np.clip((np.asarray(video) + 1) / 2, 0, 1) ** 2
    at = np.arange(SIDE) + 0.5
    total = np.maximum(bright.sum((2, 3)), 1e-6)
    across = np.einsum("nthwc,w->ntc", bright, at) / total
    return np.stack([across, np.einsum("nthwc,h->ntc", bright, at) / total], -1)


def valid(video: np.ndarray) -> float:
    """Share of clips in which both balls keep their speed within 10 % (or 0.3 pixels) but for frames of a bounce."""
    step = np.linalg.norm(np.diff(places(video), axis=1), axis=-1)  # [N, T - 1, 2]
    usual = np.median(step, axis=1, keepdims=True)
    even = np.abs(step - usual) <= np.maximum(0.1 * usual, 0.3)
    return float((even.mean(1) >= 0.7).all(-1).mean())
