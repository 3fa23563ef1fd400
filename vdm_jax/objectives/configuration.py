"""The `objective` section of a config: which loss trains a run, with what it needs of its own.

    objective = {"kind": "denoising"}                                      the default
    objective = {"kind": "denoising", "noise": {"kind": "independent"}}
    objective = {"kind": "consistency", "steps": 50}                        distils `config.init` to a few steps
    objective = {"kind": "consistency", "pairs": "runs/picture_lcm"}        ... by a student that begins with pairs
    objective = {"kind": "denoising", "known_way": "shared",                which tasks, and how often each comes
                 "masks": [{"kind": "ends", "first": 8}, {"kind": "blocks", "share": 0.25}]}
    objective = {"kind": "denoising", "corruption": {"key": "concat", "mean": -3.0, "std": 0.5}}

A kind is a dataclass with `make(process, **parts) -> objective`; parts are those of `DenoisingObjective` that other
sections of the config say (dropout, vector, constants, the empty prompt).  A noise source is a section with a `kind`.
It also says which networks begin as `copies` of the backbone, and at which levels its models are sampled (`distilled`).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from vdm_jax.config import build_kind, to_dict
from vdm_jax.diffusion.consistency import ConsistencyGrid
from vdm_jax.diffusion.masks import Bernoulli, Blocks, Ends, MaskSampler, Mixture, OneFrame, Prefix, Strided
from vdm_jax.diffusion.process import Process
from vdm_jax.errors import did_you_mean
from vdm_jax.objectives.consistency import ConsistencyObjective, GuidanceRamp, GuidanceRange
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
GUIDANCE: dict[str, type] = {"range": GuidanceRange, "ramp": GuidanceRamp}


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

    @property
    def copies(self) -> dict[str, float | None]:
        """None."""
        return {}

    @property
    def distilled(self) -> None:
        """None: any levels will do."""

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


@dataclasses.dataclass(frozen=True)
class Consistency:
    """Distillation to a few steps (`ConsistencyObjective`) of the weights that a run starts from.

    Attributes:
      steps, scaling: of the grid, see `ConsistencyGrid`; sampling takes at most `steps`.
      teacher: whether the weights at the start, kept as they are, make the steps of the solver; False learns from data
        alone.
      guidance: of the teacher, a section with a `kind` of `GUIDANCE`; None is `range`, at 7.5.
      guides: conditions that it is guided towards; () for a model that reads none.
      huber, power: see `ConsistencyObjective`.
      decay: share of the target that stays in each step.
      noise: a section with a `kind` of `sampling.noise.NOISES`; None is plain noise.
      corruption: as of `Denoising`.
      pairs: a run that trained low-rank pairs, which the student begins with, merged; target and teacher begin without.
    """

    steps: int = 50
    scaling: float | None = 10.0
    teacher: bool = True
    guidance: dict | None = None
    guides: tuple[str, ...] = ("tokens",)
    huber: float = 0.001
    power: float = 0.0
    decay: float = 0.95
    noise: dict | None = None
    corruption: NoisyCondition | None = None
    pairs: str | None = None

    def __post_init__(self):
        noise_from(self.noise, "noise")
        if not 0.0 <= self.decay < 1.0:
            raise ValueError(f"decay: {self.decay!r} must be in [0, 1)")
        if not self.teacher and self.guidance is not None:
            raise ValueError("guidance: is the teacher's, and teacher is False; leave it out")
        self._guidance()
        assert self.distilled is not None  # checks its own fields

    @property
    def copies(self) -> dict[str, float | None]:
        """The target, which follows, and the teacher, which stays as it is."""
        return {"target": self.decay} | ({"teacher": None} if self.teacher else {})

    @property
    def distilled(self) -> ConsistencyGrid:
        """The levels that its models know."""
        return ConsistencyGrid(self.steps, self.scaling)

    def make(self, process: Process, **parts: Any) -> ConsistencyObjective:
        """The objective of a run."""
        noise = noise_from(self.noise, "noise")
        data = DenoisingObjective(process, noise=noise, corruption=self.corruption, **parts)
        return ConsistencyObjective(data, self.distilled, self._guidance(), self.guides, self.huber, self.power)

    def _guidance(self) -> GuidanceRange | GuidanceRamp | None:
        if not self.teacher:
            return None
        return build_kind(GUIDANCE, self.guidance or {"kind": "range"}, "guidance")


OBJECTIVES: dict[str, type] = {"denoising": Denoising, "consistency": Consistency}


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
