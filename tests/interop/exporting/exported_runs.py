"""Trained runs to export: nothing is trained, but every weight is drawn so that none hides anything."""

import functools
import importlib.resources
import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.training.dit_runs import config_of, tokenizer
from vdm_jax.diffusion.configuration import process_to_dict
from vdm_jax.interop.finetuning.origin import settled, write_origin
from vdm_jax.training.checkpoint import CheckpointConfig, Checkpointer, StepMeta
from vdm_jax.training.run import Run, assemble
from vdm_jax.training.run_config import complete, run_config_from

STEP = 7


def drawn(abstract: Any, seed: int = 0) -> Any:
    """Arrays for a pytree of shapes: scales of norms around 1, all others around 0."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        mean = float(getattr(path[-1], "key", "") == "scale")
        return jnp.asarray(mean + 0.2 * rng.standard_normal(leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, abstract)


def write_run(path: Path, raw: Mapping[str, Any]) -> Run:
    """A run of `STEP` steps with the config `raw`, whose weights are `drawn`."""
    raw, origin = settled(raw)
    config = run_config_from(raw)
    words = tokenizer() if config.networks.text else None
    vocab, null = (words.vocab_size, words.encode([""])) if words else (0, None)
    run = assemble(config, vocab, null, jax.devices()[:1])
    path.mkdir()
    (path / "config.json").write_text(json.dumps(complete(raw)))
    (path / "code.json").write_text(json.dumps([{"vdm_jax": "0.1.0", "revision": "abc", "jax": jax.__version__}]))
    if words:
        words.save(path / "tokenizer.json")
    if origin:
        write_origin(path, origin)
    with Checkpointer(path / "checkpoints", CheckpointConfig()) as checkpointer:
        checkpointer.save(
            STEP, {"params": drawn(run.plan.abstract.params)}, StepMeta(process_to_dict(config.process), {}, {})
        )
    return run


@functools.cache
def shipped() -> ModuleType:
    """`sample.py` of an export, in this process; PyTorch is there."""
    folder = importlib.resources.files("vdm_jax.interop.exporting.torch_modules")
    modules = {}
    try:
        for name, file in (("model", "dit.py"), ("sample", "sample.py")):
            spec = importlib.util.spec_from_file_location(name, folder / file)
            modules[name] = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(modules[name])
    finally:
        for name in modules:
            del sys.modules[name]
    return modules["sample"]


def dit_config(**model: Any) -> dict[str, Any]:
    """A DiT with the text encoder of `dit_runs`, no average, guidance that rises from frame to frame in a few steps."""
    raw = config_of("dit_full", {"data": 1}, model)
    rising = {"guidance": 2.0, "guidance_from": 0.5, "guidance_rescale": 0.3}
    return raw | {"ema": {"decays": ()}, "sample": {"steps": 3, **rising}}
