"""A trained run opened for export, and what a person chooses about it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vdm_jax.adapters.lora import merged
from vdm_jax.interop import component as components
from vdm_jax.interop.component import Component
from vdm_jax.interop.files.tensors import MAX_FILE
from vdm_jax.interop.finetuning.origin import Origin, read_origin
from vdm_jax.training.checkpoint import Restored, restore_weights
from vdm_jax.training.run_config import RunConfig, run_config_from
from vdm_jax.training.run_directory import read_config

CHECKPOINTS = "checkpoints"


@dataclasses.dataclass(frozen=True)
class Choices:
    """What a person chooses.

    Attributes:
      weights: `params`, `ema` (the average that the run samples with) or `ema:<decay>`; None is what it samples with.
      dtype: of floating-point tensors; None is what they were read as, or what they are.
      max_file: bytes of tensors in one file, if there is more than one tensor in it.
      data: what is known of the data, for the card: name of a row -> its text.
      certificate: a file of `vdm parity --json`, whose digest goes into the card.
    """

    weights: str | None = None
    dtype: np.dtype | None = None
    max_file: int = MAX_FILE
    data: Mapping[str, str] = dataclasses.field(default_factory=dict)
    certificate: Path | None = None

    def __post_init__(self):
        if self.max_file < 1:
            raise ValueError(f"shard-size: {self.max_file} bytes must be 1 or more")
        if self.certificate is not None and not self.certificate.is_file():
            raise ValueError(f"certificate: no file {self.certificate}")

    def write(self, found: Component, folder: Path) -> None:
        """Writes a component into a new folder, as chosen."""
        components.write(found, folder, dtype=self.dtype, max_file=self.max_file)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained run.

    Attributes:
      path, config: the run.
      which, step: its weights.
      params: `{network: nested dict}`, with low-rank pairs merged into them.
      origin: what it was started from; None if nothing.
    """

    path: Path
    config: RunConfig
    which: str
    step: int
    params: Mapping[str, Any]
    origin: Origin | None

    @property
    def model(self) -> Any:
        """The config of its network."""
        return self.config.networks.model


def open_trained(run: Path, weights: str | None = None) -> Trained:
    """Reads a trained run.

    Args:
      run: its directory.
      weights: see `Choices`.

    Raises:
      ValueError: no run, or no such weights.
      RunError: no intact checkpoint.
    """
    config = run_config_from(read_config(run))
    if config.adapter is not None:
        raise ValueError(
            f"config.adapter: {run} trained one ({config.adapter.tag}), which neither a published class nor the PyTorch"
            " code here has a place for; --format adapter writes it alone, for its base as it was"
        )
    which, restored = restored_weights(run, config, weights)
    params = restored.state if config.lora is None else merged(restored.state, config.lora.scale)
    return Trained(run, config, which, restored.step, params, read_origin(run))


def restored_weights(run: Path, config: RunConfig, weights: str | None) -> tuple[str, Restored]:
    """The name of the weights that are meant, and these as they were trained; arguments as in `open_trained`."""
    average = f"ema:{config.sampled_weights}" if config.sampled_weights else "params"
    which = average if weights in (None, "ema") else weights
    return which, restore_weights((run / CHECKPOINTS).absolute(), which)
