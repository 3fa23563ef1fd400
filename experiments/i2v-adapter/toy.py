"""The toy of I2V-Adapter's claim: sprites that move, 8 frames of 16x16, and a factorised DiT.

stage 0    from a label, the direction, to video: everything trains, then is frozen (`base`)
stage 1    a clean first frame under one level for the whole clip: the adapter, nothing, or `concat` and its layer

The label says where a sprite goes; its colour, shape, size, speed and place are in the picture alone.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from data_pipelines.worlds.sprites.world import DIRECTIONS, SpritesConfig, attributes
from data_pipelines.worlds.sprites.world import clip as sprites_clip
from vdm_jax.adapters.frames import FirstFrameConfig
from vdm_jax.config import to_dict
from vdm_jax.diffusion import VP
from vdm_jax.diffusion.masks import Ends
from vdm_jax.evaluation.claims import Base
from vdm_jax.models.dit import DiT, DiTConfig
from vdm_jax.objectives.denoising import DenoisingObjective
from vdm_jax.training.ema import EMAConfig
from vdm_jax.training.fit import Trainer, batches
from vdm_jax.training.optimizer import OptimizerConfig
from vdm_jax.training.recipe import plain
from vdm_jax.training.state import define, overlay

FRAMES, SIDE, CLIPS, BATCH, STEPS = 8, 16, 4096, 32, 2200
WORLD = SpritesConfig(height=SIDE, width=SIDE, frames=FRAMES, travel=(0.1, 0.55))
PROCESS = VP(prediction="x0", beta_start=0.00085, beta_end=0.012)  # the published schedule
MODEL = DiTConfig(
    patch=(1, 8, 8), dim=64, depth=3, heads=2, mlp_dim=128, mlp="relu2", attention="factorised", adaln="per_block",
    classes=len(DIRECTIONS),
)  # fmt: skip
OPTIMIZER = OptimizerConfig("muon", learning_rate=4e-3, schedule="wsd", warmup=50, decay_fraction=0.4, weight_decay=0)
EMA = EMAConfig((0.98,))
ADAPTER = FirstFrameConfig()
ARMS = ("adapter", "none", "concat")


def network(arm: str = "none"):
    """`rngs -> networks` of an arm."""
    config = dataclasses.replace(MODEL, concat_channels=3) if arm == "concat" else MODEL

    def make(rngs) -> dict[str, DiT]:
        dit = DiT(config, rngs)
        return {"backbone": ADAPTER.put_into(dit, rngs) if arm == "adapter" else dit}

    return make


def clips(count: int, seed: int) -> dict[str, np.ndarray]:
    """`video` uint8 `[N, 8, 16, 16, 3]` and `label` int32 `[N]`."""
    indices = np.random.default_rng(seed).integers(1 << 20, size=count).tolist()  # neighbours are alike
    made = [sprites_clip(WORLD, index, seed).video for index in indices]
    ways = [list(DIRECTIONS).index(attributes(index, WORLD)[0].direction) for index in indices]
    return {"video": np.stack(made), "label": np.int32(ways)}


def base() -> Base:
    """The label-to-video model that every arm starts from."""
    settings = {"world": to_dict(WORLD), "model": to_dict(MODEL), "process": repr(PROCESS), "clips": CLIPS}
    settings |= {"optimizer": to_dict(OPTIMIZER), "steps": [STEPS, BATCH], "ema": to_dict(EMA)}

    def weights() -> dict[str, Any]:
        trainer = Trainer(network(), plain(DenoisingObjective(PROCESS, vector=("label",)), OPTIMIZER, STEPS), EMA)
        arrays = jax.tree.map(jnp.asarray, clips(CLIPS, 77))
        return jax.device_get(trainer.run(batches(arrays, BATCH, 0), 0).params)

    return Base("sprites_dit", settings, weights)


def start(arm: str, weights: dict[str, Any]) -> dict[str, Any]:
    """The parameters of an arm that computes what the base does; nothing of a new adapter is drawn."""
    if arm == "concat":
        flat = flatten_dict(weights)
        first = ("backbone", "patch_in", "kernel")
        pixels = flat[first].reshape(-1, 3, MODEL.dim)  # channels of a pixel lie side by side
        flat[first] = np.concatenate([pixels, np.zeros_like(pixels)], axis=1).reshape(-1, MODEL.dim)
        return unflatten_dict(flat)
    if arm == "none":
        return weights
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), define(network(arm)).abstract)
    return ADAPTER.begin(overlay(zeros, weights))


def train(arm: str, weights: dict[str, Any], data: dict[str, np.ndarray], steps: int, seed: int) -> dict[str, Any]:
    """The parameters behind stage 1; those of the base for the arm that trains nothing."""
    if arm == "none":
        return weights
    objective = DenoisingObjective(PROCESS, vector=("label",), masks=Ends(first=1), known_way="shared")
    trains = (ADAPTER.tag,) if arm == "adapter" else ("patch_in",)
    arrays = jax.tree.map(jnp.asarray, data)
    if arm == "concat":
        video = arrays["video"].astype(jnp.float32) / 127.5 - 1
        arrays["concat"] = jnp.broadcast_to(video[:, :1], video.shape)
    trainer = Trainer(network(arm), plain(objective, OPTIMIZER, steps, trains), EMA)
    return trainer.run(batches(arrays, BATCH, seed), seed, start(arm, weights)).params
