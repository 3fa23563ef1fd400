"""The section `data` of a config: which sets, in which shapes, how cut, and what reads them."""

import dataclasses
import math
from collections.abc import Mapping

from data_pipelines.loading.fields import fields_of
from data_pipelines.shards.reader import POLICIES
from vdm_jax.errors import did_you_mean
from vdm_jax.types import Bucket

RESIZES = ("whole", "cover")
CROPS = ("centre", "random")


@dataclasses.dataclass(frozen=True)
class Stage:
    """From a step on, other weights.

    Attributes:
      step: the first step (counted from 0) whose batch is drawn by them.
      weights: as `DataConfig.weights`.
    """

    step: int
    weights: dict[str, float]

    def __post_init__(self):
        if self.step < 1:
            raise ValueError(f"step: {self.step!r} must be 1 or more; the weights before it are those of the section")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The section `data` of a config.

    Attributes:
      shards: directory of a shard set, of pixels or of latents; with `sets`, the one whose held-out clips are looked
        at.
      frames: frames per clip, at most what is stored; of latents, of the latent clip.
      height, width: pixels, see `resize`.  Of latents, exactly what is stored, on the latent grid as the network sees
        it.
      buckets: all shapes of training batches, this one among them; empty is this one alone.
      sets: name -> directory of the sets that training mixes; empty is `shards` alone.  A set gives clips to the
        buckets that its clips fill: one of images (clips of one frame) to those of one frame.
      weights: name -> share of the clips of a batch that come from this set, among those that its bucket draws from;
        empty goes by the number of clips.
      schedule: weights that take the place of these from a step on.
      fps: frames per second; pictures are left out until a clip has that rate.  0 leaves clips as they are.
      resize: `whole`: height and width are the stored ones, or both divided by the same whole number (means of the
        pixels).  `cover`: clips are shrunk, keeping their proportions, until they just cover height and width.
      crop: which part of a clip that covers more is taken, `centre` or `random`.
      fields: what else batches hold of each clip (`fields.FIELDS`): arrays that sets of worlds store, as `flow` or
        `depth`, and what is computed of the pixels; not of latents.
      max_unusable: clips that may be too slow, too short or too small for every bucket; they are left out and listed.
      shuffle: a new order each epoch; False reads in stored order.
      random_start: take the frames from a random place in the stored clip instead of its start; not of latents, whose
        first frame is unlike the others.
      flip: mirror half of the clips, their captions (`captions.mirrored`) and fields; not of latents.
      cache_megabytes: keep decoded clips in memory if the whole split fits in so much; 0 never does.
      read_threads: threads that decode, where no workers do.
      prefetch_batches: batches decoded ahead.
      workers: processes that decode; 0 decodes in threads of this one, which is faster unless Python is the limit.
      on_damage: `raise`, or `substitute` another clip for a damaged one.
      damage_budget: how many damaged clips `substitute` accepts.
    """

    shards: str
    frames: int
    height: int
    width: int
    buckets: tuple[Bucket, ...] = ()
    sets: dict[str, str] = dataclasses.field(default_factory=dict)
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    schedule: tuple[Stage, ...] = ()
    fps: float = 0.0
    resize: str = "whole"
    crop: str = "centre"
    fields: tuple[str, ...] = ()
    max_unusable: int = 0
    shuffle: bool = True
    random_start: bool = False
    flip: bool = False
    cache_megabytes: int = 512
    read_threads: int = 2
    prefetch_batches: int = 4
    workers: int = 0
    on_damage: str = "raise"
    damage_budget: int = 0

    def __post_init__(self):
        positive = ("frames", "height", "width", "read_threads", "prefetch_batches")
        others = ("cache_megabytes", "damage_budget", "max_unusable", "workers")
        for name, least in (*((n, 1) for n in positive), *((n, 0) for n in others)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not at least {least}")
        for name, allowed in (("on_damage", POLICIES), ("resize", RESIZES), ("crop", CROPS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: {did_you_mean(getattr(self, name), allowed)}")
        if not 0 <= self.fps < math.inf:
            raise ValueError(f"fps: {self.fps!r} must be a rate, or 0 for clips as they are")
        fields_of(self.fields)
        for name, shards in self.sets.items():
            if not isinstance(shards, str) or not shards:
                raise ValueError(f"sets.{name}: {shards!r} is no directory")
        _check_weights(self.weights, self.sets, "weights")
        for i, stage in enumerate(self.schedule):
            _check_weights(stage.weights, self.sets, f"schedule[{i}].weights")
            if not stage.weights:
                raise ValueError(f"schedule[{i}].weights: empty; it names {', '.join(self.sets) or 'sets'}")
            if i and stage.step <= self.schedule[i - 1].step:
                raise ValueError(f"schedule[{i}].step: {stage.step} does not come after {self.schedule[i - 1].step}")

    def bucket(self, batch_size: int) -> Bucket:
        """The shape of the run's own clips, `batch_size` of them."""
        return Bucket(self.frames, self.height, self.width, batch_size, fps=self.fps)

    @property
    def training_sets(self) -> tuple[str, ...]:
        """Directories of all sets that training reads, each once: those of the mixture, and those of buckets."""
        named = [self.sets.get(bucket.shards, bucket.shards) for bucket in self.buckets if bucket.shards]
        return tuple(dict.fromkeys([*(self.sets.values() or [self.shards]), *named]))


def _check_weights(weights: Mapping[str, float], sets: Mapping[str, str], field: str) -> None:
    """Weights are of all sets and of no other, none is negative, and not all are zero."""
    for name, weight in weights.items():
        if name not in sets:
            where = did_you_mean(name, sets) if sets else f"{name!r}, but data.sets is empty"
            raise ValueError(f"{field}: {where}")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise ValueError(f"{field}.{name}: {weight!r} is not a number of 0 or more")
    if weights and (missing := [name for name in sets if name not in weights]):
        raise ValueError(f"{field}.{missing[0]}: missing; every set of data.sets has a weight, which may be 0")
    if weights and not any(weights.values()):
        raise ValueError(f"{field}: all are 0")
