"""The `objective` section of a config: which loss trains a run, with what it needs of its own.

    objective = {"kind": "denoising"}                                      the default
    objective = {"kind": "denoising", "noise": {"kind": "independent"}}
    objective = {"kind": "denoising", "known_way": "shared",                which tasks, and how often each comes
                 "masks": [{"kind": "ends", "first": 8}, {"kind": "blocks", "share": 0.25}]}
    objective = {"kind": "denoising", "corruption": {"key": "concat", "mean": -3.0, "std": 0.5}}

A kind is a dataclass with `make(process, **parts) -> objective`; parts are those of `DenoisingObjective` that other
sections of the config say (dropout, vector, constants, the empty prompt).  A noise source is a section with a `kind`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from vdm_jax.config import build_kind, to_dict
from vdm_jax.diffusion.masks import Bernoulli, Blocks, Ends, MaskSampler, Mixture, OneFrame, Prefix, Strided
from vdm_jax.diffusion.process import Process
from vdm_jax.errors import did_you_mean
from vdm_jax.objectives.corruption import NoisyCondition
from vdm_jax.objectives.denoising import KNOWN_WAYS, MEANS, DenoisingObjective
from vdm_jax.sampling.noise import noise_from

MASKS: dict[str, type] = {
    "ends": Ends,
    "prefix": Prefix,
    "strided": Strided,
    "one_frame": OneFrame,
    "bernoulli": Bernoulli,
    "blocks": Blocks,
}


@dataclasses.dataclass(frozen=True)
class Denoising:
    """Ordinary diffusion training (`DenoisingObjective`).

    Attributes:
      noise: a section with a `kind` of `sampling.noise.NOISES`; None is plain noise.
      masks: sections with a `kind` of `MASKS` and a `share` (1 by default), how often the task comes relative to the
        others; none leaves what is given to the data.
      known_way, known_level, mean_over: see `DenoisingObjective`.
      corruption: a section with the fields of `objectives.corruption.NoisyCondition`; None leaves conditions as they
        come.
    """

    noise: dict | None = None
    masks: tuple[dict, ...] = ()
    known_way: str = "clean"
    known_level: float = 0.0
    mean_over: str = "unknown"
    corruption: NoisyCondition | None = None

    def __post_init__(self):
        noise_from(self.noise, "noise")
        masks_from(self.masks, "masks")
        for name, allowed in (("known_way", KNOWN_WAYS), ("mean_over", MEANS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: {did_you_mean(getattr(self, name), allowed)}")
        if self.known_way == "clean" and any(section.get("kind") == "blocks" for section in self.masks):
            raise ValueError("known_way: 'clean' needs whole frames, part of one has no level of its own; use 'shared'")

    def make(self, process: Process, **parts: Any) -> DenoisingObjective:
        """The objective of a run."""
        return DenoisingObjective(
            process,
            noise=noise_from(self.noise, "noise"),
            masks=masks_from(self.masks, "masks"),
            known_way=self.known_way,
            known_level=self.known_level,
            mean_over=self.mean_over,
            corruption=self.corruption,
            **parts,
        )


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


def masks_from(sections: Sequence[Mapping[str, Any]], path: str) -> MaskSampler | None:
    """Builds the tasks of training from sections with a `kind` and a `share`; None of no section.

    Raises:
      ValueError: an unknown kind or key, or a wrong value.
    """
    if not sections:
        return None
    parts, shares = [], []
    for i, section in enumerate(sections):
        fields = dict(section)
        shares.append(fields.pop("share", 1.0))
        parts.append(build_kind(MASKS, fields, f"{path}[{i}]"))
    return Mixture(tuple(parts), tuple(shares))
