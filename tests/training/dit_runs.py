"""Runs of real networks, small enough to be compiled for many meshes: configs, batches, loss curves."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from vdm_jax.models.text import TextConfig
from vdm_jax.models.tokenizer import Tokenizer
from vdm_jax.sharding import place_batch
from vdm_jax.training.run import Run, assemble
from vdm_jax.training.run_config import run_config_from
from vdm_jax.training.step import TrainStep, make_train_step

BATCH, FRAMES, HEIGHT, WIDTH, LENGTH = 8, 3, 8, 12, 6  # 3 frames of 6 tokens: hardly a mesh divides them
STEPS = 20
WORDS = ("red", "blue", "left", "right", "")

# What the mesh must not change; a further network joins by one line.
NETWORKS = {
    "dit_full": {"kind": "dit", "patch": (1, 4, 4), "dim": 32, "depth": 1, "heads": 8, "attention": "full"},
    "dit_factorised": {"kind": "dit", "patch": (1, 4, 4), "dim": 32, "depth": 1, "heads": 8, "attention": "factorised"},
    "latte": {"kind": "latte", "channels": 3, "patch": 4, "dim": 32, "depth": 1, "heads": 8, "sample_size": 12},
    "cogvideox": {
        "kind": "cogvideox",
        "channels": 3,
        "patch": (1, 4, 4),
        "dim": 32,
        "depth": 1,
        "heads": 8,
        "time_dim": 16,
        "sample": (3, 8, 12),
    },
    "wan": {"kind": "wan", "channels": 3, "patch": (1, 4, 4), "dim": 32, "depth": 1, "heads": 8, "mlp_dim": 64},
}


def config_of(network: str, mesh: Mapping[str, int], model: Mapping[str, Any] | None = None, **train) -> dict:
    """The config of a run of `STEPS` steps over text and tiny clips."""
    return {
        "seed": 3,
        "process": {"kind": "rectified_flow"},
        "model": NETWORKS[network] | (model or {}),
        "text": {"tokenizer": "bytes", "length": LENGTH, "dim": 16, "depth": 1, "heads": 2},
        "data": {"frames": FRAMES, "height": HEIGHT, "width": WIDTH},
        "train": {"steps": STEPS, "batch_size": BATCH, "dropout": {"tokens": 0.2}, **train},
        "optimizer": {"learning_rate": 3e-3, "warmup": 2},
        "mesh": dict(mesh),
    }


@functools.cache
def tokenizer() -> Tokenizer:
    """Bytes, as nothing has to be learned."""
    return Tokenizer.train((), TextConfig(tokenizer="bytes", length=LENGTH, dim=16, heads=2))


def batch_of(index: int) -> dict[str, np.ndarray]:
    """Batch number `index` of an endless stream."""
    rng = np.random.default_rng(index)
    video = rng.integers(0, 256, (BATCH, FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    words = tokenizer().encode([WORDS[i] for i in rng.integers(len(WORDS), size=BATCH)])
    return {"video": video, "index": np.arange(BATCH) + index * BATCH, **words}


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A run and its step."""

    run: Run
    step: TrainStep

    def curve(self, steps: int, params: dict):
        """Losses and gradient norms of the first steps from given weights, and the state after them."""
        state, rows = self.run.plan.start_from(params), []
        for index in range(steps):
            state, metrics = self.step(state, place_batch(batch_of(index), self.run.mesh))
            rows.append([float(metrics["loss"]), float(metrics["grad_norm"])])
        return np.array(rows), state


def compiled(network: str, mesh: Mapping[str, int], model: Mapping[str, Any] | None = None, **train) -> Compiled:
    """A run on as many devices as the mesh asks for."""
    count = int(np.prod(list(mesh.values())))
    config = run_config_from(config_of(network, mesh, model, **train))
    run = assemble(config, tokenizer().vocab_size, tokenizer().encode([""]), jax.devices()[:count])
    return Compiled(run, make_train_step(run.plan, run.step_config(), config.seed))


@functools.cache
def alone(network: str) -> Compiled:
    """The run on one device."""
    return compiled(network, {"data": 1})


@functools.cache
def weights_of(network: str) -> dict:
    """Its weights at the start, on the host."""
    return jax.device_get(alone(network).run.plan.init(3).params)


@functools.cache
def curve_of(network: str) -> np.ndarray:
    """Losses and gradient norms of all steps on one device."""
    return alone(network).curve(STEPS, weights_of(network))[0]
