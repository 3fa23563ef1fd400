"""The `objective` section of a config: which loss trains a run, with what it needs of its own.

    objective = {"kind": "denoising"}                                      the default
    objective = {"kind": "denoising", "noise": {"kind": "independent"}}

A kind is a dataclass with `make(process, **parts) -> objective`; parts are those of `DenoisingObjective` that other
sections of the config say (dropout, vector, constants, the empty prompt).  A noise source is a section with a `kind`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vdm_jax.config import build_kind, to_dict
from vdm_jax.diffusion.process import Process
from vdm_jax.objectives.denoising import DenoisingObjective
from vdm_jax.sampling.noise import INDEPENDENT, Independent, NoiseSource

NOISES: dict[str, type] = {"independent": Independent}


@dataclasses.dataclass(frozen=True)
class Denoising:
    """Ordinary diffusion training (`DenoisingObjective`).

    Attributes:
      noise: a section with a `kind` of `NOISES`; None is plain noise.
    """

    noise: dict | None = None

    def __post_init__(self):
        noise_from(self.noise, "noise")

    def make(self, process: Process, **parts: Any) -> DenoisingObjective:
        """The objective of a run."""
        return DenoisingObjective(process, noise=noise_from(self.noise, "noise"), **parts)


OBJECTIVES: dict[str, type] = {"denoising": Denoising}


def objective_from(section: Mapping[str, Any] | None, path: str = "config.objective") -> Any:
    """Reads the section; None is plain denoising.

    Raises:
      ValueError: an unknown kind or key, or a wrong value; names the full path.
    """
    return Denoising() if section is None else build_kind(OBJECTIVES, section, path)


def objective_to_dict(objective: Any) -> dict[str, Any]:
    """Writes it as JSON types; `objective_from` is the inverse."""
    kind = next(kind for kind, cls in OBJECTIVES.items() if type(objective) is cls)
    return {"kind": kind, **to_dict(objective)}


def noise_from(section: Mapping[str, Any] | None, path: str) -> NoiseSource:
    """Builds a noise source from a section with a `kind`; None is plain noise.

    Raises:
      ValueError: an unknown kind or key, or a wrong value.
    """
    return INDEPENDENT if section is None else build_kind(NOISES, section, path)
