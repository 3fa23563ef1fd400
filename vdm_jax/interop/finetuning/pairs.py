"""Low-rank pairs that another run trained, put into what a run starts from: `config.objective.pairs`.

So a model of pictures that was distilled by pairs lends its few steps to the model of videos that was built on it
(the second stage of AnimateLCM, arXiv 2402.00769); the layers that they stand beside have the same names in both.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vdm_jax.adapters.lora import TAG, beside, merged
from vdm_jax.nn.path_filter import select
from vdm_jax.sharding import MeshConfig
from vdm_jax.training.checkpoint import restore_weights
from vdm_jax.training.run import assemble
from vdm_jax.training.run_config import RunConfig, run_config_from
from vdm_jax.training.run_directory import read_config
from vdm_jax.training.state import subset

_FIELD = "config.objective.pairs"


def check_pairs(config: RunConfig) -> None:
    """Says what can be said of `objective.pairs` before a run begins; raises ValueError."""
    if (run := _named(config)) is not None:
        _config_of(run)
        if config.init is None:
            raise ValueError(f"{_FIELD}: are for weights that are there already; config.init must name them")
        if config.lora is not None:
            raise ValueError(f"{_FIELD}: are merged, and config.lora adds new ones; train one of the two at a time")


def with_pairs(config: RunConfig, backbone: dict[str, Any]) -> dict[str, Any]:
    """The student's parameters: the backbone, with the pairs merged that `objective.pairs` names; as it is without.

    Raises:
      ValueError: the run trained none, or beside other layers than there are; names them.
      RunError: its weights are gone or damaged.
    """
    run = _named(config)
    if run is None:
        return backbone
    theirs = _config_of(run)
    empty = np.zeros((1, theirs.networks.text.length if theirs.networks.text else 1), np.int32)
    words = (1, {"text_ids": empty, "text_mask": empty > 0}) if theirs.networks.text else (0, None)  # no matter which
    plan = assemble(theirs, *words, jax.local_devices()[:1]).plan
    abstract = subset(plan.abstract.params, select(frozenset(plan.trained), (TAG,)))
    which = f"ema:{theirs.sample.ema}" if theirs.sample.ema is not None else "params"
    found = restore_weights((Path(run) / "checkpoints").absolute(), which, abstract=abstract).state
    try:
        together = beside(backbone, jax.device_get(found["backbone"]))
    except ValueError as error:
        raise ValueError(f"{_FIELD}: {run}: {error}") from None
    return merged(together, theirs.lora.scale)


def _named(config: RunConfig) -> str | None:
    return getattr(config.objective, "pairs", None)


def _config_of(run: str) -> RunConfig:
    """The config of a run that trained pairs, for one device."""
    try:
        config = run_config_from(read_config(run))
    except ValueError as error:
        raise ValueError(f"{_FIELD}: {error}") from None
    if config.lora is None:
        raise ValueError(f"{_FIELD}: {run} trained no low-rank pairs (its config.lora is None)")
    return dataclasses.replace(config, mesh=MeshConfig(), buckets=())
