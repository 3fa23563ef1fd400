"""The toy of VDT's claim: a red and a green ball in a box without gravity, and small DiTs.

clip      16 frames of 16x16, averaged to a latent of 8x8 with a channel for each ball; 2,000 of them
model     3 units of temporal attention, spatial attention and MLP, width 64, one token a frame

Tasks are drawn for every batch before training and come with it, so that all arms of one network are one program.

Ways to show a model the 8 frames that go before 8 others: as further frames that are given (which is the mask model
itself), or pooled and added to the embedding of the time (`pooled`).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_pipelines.loading.shrinking import averaged
from data_pipelines.worlds.bounce.world import BounceConfig
from data_pipelines.worlds.bounce.world import clip as bounce_clip
from vdm_jax.diffusion import VP
from vdm_jax.diffusion.masks import Ends, MaskSampler, Mixture, Strided, draw_tasks
from vdm_jax.evaluation.places import bright_places
from vdm_jax.models.dit import DiT, DiTConfig
from vdm_jax.nn.embeddings import sincos_table
from vdm_jax.objectives.denoising import DenoisingObjective
from vdm_jax.sampling import Known, make_denoiser, replace_known, sample, uniform
from vdm_jax.training.ema import EMAConfig
from vdm_jax.training.fit import Data, Fitted, Trainer, batches
from vdm_jax.training.optimizer import OptimizerConfig
from vdm_jax.training.recipe import plain
from vdm_jax.training.state import NetworkDefinitions

FRAMES, SIDE, BATCH, GIVEN, STEPS = 16, 8, 32, 8, 16  # STEPS: of DDIM
TASKS = {"prediction": Ends(first=GIVEN), "interpolation": Strided(4), "generation": Ends()}
UNIFIED = Mixture(tuple(TASKS.values()))
PROCESS = VP(prediction="x0")
MODEL = DiTConfig(
    channels=2,
    patch=(1, SIDE, SIDE),
    dim=64,
    depth=3,
    heads=2,
    mlp_dim=128,
    attention="factorised",
    temporal="attention_first",
    rope=False,
    positions="learned",
    grid=(FRAMES, 1, 1),
)
READ = dataclasses.replace(MODEL, text_dim=SIDE * SIDE * 2 + MODEL.dim, pooled_text=True, text_projection="mlp")


def clips(count: int, seed: int) -> np.ndarray:
    """Latents of the world's clips, float32 `[N, 16, 8, 8, 2]` in [-1, 1]."""
    world = BounceConfig(
        height=2 * SIDE,
        width=2 * SIDE,
        frames=FRAMES,
        balls=2,
        colours=("red", "green"),
        radius=(0.18, 0.2),
        speed=(0.4, 0.7),
        gravity=0.0,
        restitution=1.0,
    )
    video = np.stack([bounce_clip(world, index, seed).video[..., :2] for index in range(count)])
    return averaged(video, 2) / 127.5 - 1.0


def tokens(video: np.ndarray) -> np.ndarray:
    """The given frames with their places, `[N, 8, 128 + 64]`: what is pooled."""
    frames = video[:, :GIVEN].reshape(len(video), GIVEN, -1)
    places = np.asarray(sincos_table((GIVEN, 1, 1), MODEL.dim)).reshape(1, GIVEN, MODEL.dim)
    places = np.broadcast_to(places, (len(video), GIVEN, MODEL.dim))
    return np.concatenate([frames, places], axis=-1).astype(np.float32)


def pooled(rngs: nnx.Rngs) -> DiT:
    """A DiT that hears of the given frames through the embedding of the time alone."""
    model = DiT(READ, rngs)
    model.units.spatial.cross = model.units.spatial.cross_norm = None
    return model


def train(
    data: Data, steps: int, seed: int, make=lambda rngs: DiT(MODEL, rngs), trains: tuple[str, ...] = ("*",)
) -> Fitted:
    """A model of what is given in these batches; `trains` is which of its parameters learn."""
    objective = DenoisingObjective(PROCESS, known_way="shared", mean_over="all")
    optimizer = OptimizerConfig(
        "muon", learning_rate=2e-2, schedule="wsd", warmup=50, decay_fraction=0.5, weight_decay=0.0
    )
    trainer = Trainer(
        lambda rngs: {"backbone": make(rngs)}, plain(objective, optimizer, steps, trains), EMAConfig((0.99,))
    )
    return trainer.run(data, seed)


def tasks(video: np.ndarray, masks: MaskSampler, steps: int, seed: int) -> Data:
    """Batches of clips with a task for each."""
    keys = jax.random.split(jax.random.key(seed), (steps, BATCH))
    known = jax.jit(jax.vmap(lambda keys: draw_tasks(masks, keys, (FRAMES,)).known))(keys)
    clips_of = batches({"video": jnp.asarray(video)}, BATCH, seed)
    return lambda stage, step: {**clips_of(stage, step), "known": known[step]}


def sampler(networks: NetworkDefinitions, frames: int = FRAMES):
    """`generate(params, key, mask [N, T], value, cond)`: given frames enter clean, at everybody's level."""

    def generate(params, key, mask, value, cond):
        denoiser = make_denoiser(PROCESS, networks.merge(params)["backbone"])
        denoiser = replace_known(denoiser, PROCESS, Known(mask, value), way="shared")
        return sample(denoiser, PROCESS, PROCESS.prior(key, value), uniform(PROCESS.levels(STEPS), frames), cond)

    return jax.jit(generate)


def valid(video: np.ndarray) -> float:
    """Share of clips in which both balls move, and keep their speed within 10 % (or 0.3 pixels) but for bounces."""
    step = np.linalg.norm(np.diff(bright_places(video, pixel=2.0), axis=1), axis=-1)  # [N, T - 1, 2]
    usual = np.median(step, axis=1, keepdims=True)
    even = np.abs(step - usual) <= np.maximum(0.1 * usual, 0.3)
    return float(((even.mean(1) >= 0.7) & (usual[:, 0] > 0.3)).all(-1).mean())
