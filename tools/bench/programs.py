"""What the sections measure: the run of a config file on one device, and batches for it, real or abstract."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.cli.config_file import load_config
from vdm_jax.config import to_dict
from vdm_jax.training.run import Run, assemble
from vdm_jax.training.run_config import run_config_from
from vdm_jax.training.state import Params, StatePlan
from vdm_jax.training.step import abstract_batch

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = ("dit_tiny", "dit_small", "dit_1b", "dit_14b")

Shapes = dict[str, tuple[tuple[int, ...], Any]]


def open_run(name: str, changes: Mapping[str, Any] | None = None) -> Run:
    """The run of `configs/<name>.py` with changes (`{"model.depth": 80}`) on the first device.

    The vocabulary is as large as the config allows, the empty prompt is two tokens, the mesh is one device.
    """
    config = to_dict(load_config(str(CONFIGS / f"{name}.py")))
    config["mesh"] = {}
    for field, value in (changes or {}).items():
        section, _, key = field.partition(".")
        config[section][key] = value
    checked = run_config_from(config)
    text = checked.networks.text
    if text is None:
        return assemble(checked, devices=jax.devices()[:1])
    null = {"text_ids": np.ones((1, text.length), np.int32), "text_mask": np.arange(text.length)[None] < 2}
    return assemble(checked, text.vocab_size, null, jax.devices()[:1])


def batch_shapes(run: Run) -> Shapes:
    """`{key: (shape, dtype)}` of a batch as the loader makes it: uint8 pixels, or float32 latents."""
    size, text = run.config.train.batch_size, run.config.networks.text
    pixels = run.config.clip_shape[3] == 3
    shapes: Shapes = {"video": ((size, *run.config.clip_shape), jnp.uint8 if pixels else jnp.float32)}
    if text is not None:
        shapes |= {"text_ids": ((size, text.length), jnp.int32), "text_mask": ((size, text.length), jnp.bool_)}
    return shapes | {"fps": ((size,), jnp.float32), "index": ((size,), jnp.int32)}


def shapes_of(run: Run) -> dict[str, jax.ShapeDtypeStruct]:
    """The batch for `TrainStep.lower`; nothing is allocated."""
    return abstract_batch(run.plan, batch_shapes(run))


def random_batch(shapes: Shapes, seed: int, vocab_size: int = 2) -> dict[str, np.ndarray]:
    """Random pixels, latents and prompts of these shapes; each prompt has two tokens or more."""
    rng, batch = np.random.default_rng(seed), {}
    for name, (shape, dtype) in shapes.items():
        if name.endswith("mask"):
            batch[name] = np.arange(shape[1]) < rng.integers(2, shape[1] + 1, (shape[0], 1))
        elif jnp.issubdtype(dtype, jnp.integer):
            batch[name] = rng.integers(0, 256 if dtype == jnp.uint8 else vocab_size, shape).astype(dtype)
        else:
            batch[name] = rng.standard_normal(shape, np.float32)
    return batch


def lively_weights(plan: StatePlan, seed: int) -> Params:
    """Weights without the zeros of a fresh network, under which gates and outputs would hide any difference.

    Kernels are normal with variance 1 / fan-in, norms' scales around 1, all else normal with deviation 0.02.
    """
    rng = np.random.default_rng(seed)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        names = [entry.key for entry in path]
        noise = rng.standard_normal(leaf.shape, np.float32)
        if names[-1] == "kernel":
            stacked = "units" in names or "blocks" in names
            return noise * leaf.shape[1 if stacked else 0] ** -0.5
        return 1 + 0.02 * noise if names[-1] == "scale" else 0.02 * noise

    return jax.tree_util.tree_map_with_path(draw, plan.networks.abstract)
