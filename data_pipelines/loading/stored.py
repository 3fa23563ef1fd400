"""What latent sets hold beside the latents: conditions, those of the empty prompt, and whose encoders made them."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.shards import manifest as manifests
from data_pipelines.shards.latents import LatentSpec, read_null
from vdm_jax import config as configs
from vdm_jax.types import PER_FRAME_KEYS


@dataclasses.dataclass(frozen=True, eq=False)
class Stored:
    """Of one latent set, or of several that agree.

    Attributes:
      spec: see `LatentSpec`; of several sets, of the first.
      null: the conditions of the empty prompt, each `[1, ...]`, float32 (masks bool); {} without prompts.
    """

    spec: LatentSpec
    null: Mapping[str, np.ndarray]

    @property
    def channels(self) -> int:
        """Of the latents."""
        return self.spec.channels

    @property
    def conditions(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of one clip's; `vector.<name>` comes in batches as <name>."""
        return {name: entry.shape for name, entry in self.spec.conditions.items()}

    @property
    def encoders(self) -> Mapping[str, Mapping[str, Any]]:
        """Component (`vae`, `text_encoder` ...) -> `class`, `digest` of its weights, and how it was used."""
        return self.spec.encoders


def stored_in(shards: Sequence[str | Path]) -> Stored | None:
    """What shard sets hold; None if they hold pixels.

    Args:
      shards: directories, at least one.

    Raises:
      ValueError: some are latents and some are pixels, or their encoders, channels or conditions differ.
      RunError: a manifest or the null features are damaged.
    """
    specs = {str(name): manifests.load(name).clip for name in shards}
    (first, spec), *others = specs.items()
    for name, other in others:
        if isinstance(other, LatentSpec) != isinstance(spec, LatentSpec):
            pixels, held = (first, name) if isinstance(other, LatentSpec) else (name, first)
            raise ValueError(f"data.buckets: {held} holds latents, {pixels} pixels; a run takes one of the two")
        if isinstance(spec, LatentSpec) and (wrong := configs.difference(_agreed(spec), _agreed(other))):
            raise ValueError(f"data.buckets: the latents of {name} are unlike those of {first}: {wrong[0]}")
    return Stored(spec, read_null(Path(first), spec)) if isinstance(spec, LatentSpec) else None


def _agreed(spec: LatentSpec) -> dict[str, Any]:
    """What sets of one run must have in common: all but sizes, and how numbers are stored."""
    shapes = {name: e.shape[-1:] if name in PER_FRAME_KEYS else e.shape for name, e in spec.conditions.items()}
    return {"channels": spec.channels, "conditions": shapes, "encoders": spec.encoders}
