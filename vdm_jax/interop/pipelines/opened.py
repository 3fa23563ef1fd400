"""An imported run as the parts that a pipeline is put together from; weights are read where they are used."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from vdm_jax.errors import did_you_mean
from vdm_jax.interop import imported
from vdm_jax.interop.families.family import NETWORK, Family
from vdm_jax.interop.families.known import FAMILIES
from vdm_jax.interop.files.tensors import read_json
from vdm_jax.interop.finetuning.prompts import PromptEncoder, Reading
from vdm_jax.interop.schedulers.published import Scheduler, read_scheduler
from vdm_jax.models.published_tokenizer import read_tokenizer
from vdm_jax.sharding import LogicalRules, activation_sharding, replicated

Params = Mapping[str, Any]
_MOST = 16  # prompts encoded at once
_SCHEDULER = "scheduler_config.json"


@dataclasses.dataclass(frozen=True)
class Part:
    """A network of a pipeline, without its weights.

    Attributes:
      family, config: what it is.
      dtype: in which it computes: bfloat16 where any of its weights was imported in that, else float32.
    """

    family: Family
    config: Any
    dtype: np.dtype

    def merge(self, params: Params) -> nnx.Module:
        """The network with these weights."""
        return self.family.define(self.config).merge({NETWORK: params})[NETWORK]


@dataclasses.dataclass(frozen=True, eq=False)
class Opened:
    """The parts of an imported pipeline.

    Attributes:
      run: its directory.
      index: its `model_index.json`.
      parts: networks by the name of their component.
      mesh: where weights and clips go; None is one device.
      trained: weights that stand in for imported ones, by the name of their component.
    """

    run: Path
    index: Mapping[str, Any]
    parts: Mapping[str, Part]
    mesh: Mesh | None = None
    trained: Mapping[str, Params] = dataclasses.field(default_factory=dict)

    @property
    def published(self) -> str:
        """Name of the pipeline's class."""
        return self.index["_class_name"]

    @functools.cached_property
    def scheduler(self) -> Scheduler:
        """The scheduler that was published with it.

        Raises:
          ValueError: there is none, or none that is known.
          RunError: its file is damaged.
        """
        file = self.run / imported.PUBLISHED / "scheduler" / _SCHEDULER
        if not file.is_file():
            raise ValueError(f"{self.run}: lacks a scheduler ({imported.PUBLISHED}/scheduler/{_SCHEDULER})")
        return read_scheduler(read_json(file))

    def part(self, name: str) -> Part:
        """A network, which must be there."""
        return self.parts[name]

    def settings(self, name: str, file: str) -> Mapping[str, Any]:
        """A JSON file of a component without weights; empty where there is none.  Raises RunError if it is damaged."""
        path = self.run / imported.PUBLISHED / name / file
        return read_json(path) if path.is_file() else {}

    def weights(self, name: str) -> Params:
        """Weights of a network, read anew: whoever asks holds the only copy.

        Raises:
          RunError: the checkpoint is damaged.
        """
        if name in self.trained:
            return self.trained[name]
        return imported.open_imported(self.run, name, self.mesh)[name].params

    def prompt_encoder(
        self, reading: Reading, length: int | None, prompts: int, names: tuple[str, str] = ("text_encoder", "tokenizer")
    ) -> PromptEncoder:
        """The frozen encoder of prompts.

        Args:
          reading: how the pipeline reads it.
          length: tokens of a prompt; None is that of the tokenizer.
          prompts: how many there will be.
          names: of the encoder and of its tokenizer.

        Raises:
          ValueError: a tokenizer that cannot be read, or that of another encoder.
        """
        encoder, folder = names
        tokenizer = read_tokenizer(self.run / imported.PUBLISHED / folder, length)
        part = self.part(encoder)
        options = {"dtype": part.dtype, "batch": min(prompts, _MOST), "mesh": self.mesh}
        return PromptEncoder(part.merge(self.weights(encoder)), tokenizer, reading, "", **options)

    def compiled(self, function: Callable) -> Callable:
        """`jax.jit`, on the mesh where there is one; results are whole on every device."""
        if self.mesh is None:
            return jax.jit(function)

        def on_mesh(*arguments):
            with activation_sharding(self.mesh, LogicalRules()):
                return function(*arguments)

        return jax.jit(on_mesh, out_shardings=replicated(self.mesh))


def open_parts(run: Path, mesh: Mesh | None = None, trained: Mapping[str, Params] | None = None) -> Opened:
    """The parts of an imported pipeline; no weights are read yet.

    Args:
      run: directory that `vdm import` made.
      mesh: see `Opened`.
      trained: see `Opened`.

    Raises:
      ValueError: no imported run, or one of a component alone; trained weights of no component.
      RunError: its record is damaged.
    """
    records, parts = imported.records_of(run), parts_of(run)
    index = run / imported.PUBLISHED / imported.INDEX
    if not index.is_file():
        alone = ", ".join(record["class"] for record in records.values())
        raise ValueError(f"{run}: holds {alone} alone and cannot be sampled, which also takes the other networks, the "
                         "scheduler and the tokenizer: import the whole folder, with its model_index.json")  # fmt: skip
    for name in trained or {}:
        if name not in records:
            raise ValueError(f"trained: {did_you_mean(name, records)} (the components of {run})")
    return Opened(run, read_json(index), parts, mesh, trained or {})


def parts_of(run: Path) -> dict[str, Part]:
    """The networks of an imported run by the name of their component; no weights are read.

    Raises:
      ValueError: no imported run.
      RunError: its record is damaged.
    """
    return {name: _part(record) for name, record in imported.records_of(run).items()}


def _part(record: Mapping[str, Any]) -> Part:
    family = FAMILIES[record["class"]]
    kinds = {record["dtype"]} if record["dtype"] else set(record["tensors"].values())
    dtype = np.dtype(ml_dtypes.bfloat16 if "bfloat16" in kinds else np.float32)
    return Part(family, family.config(record["config"]), dtype)
