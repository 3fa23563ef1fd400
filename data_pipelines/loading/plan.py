"""Which clips of which sets make the batches of a run, found out before any is read.

    buckets x sets  -- sizes, lengths (`fit.check_bucket`) --  which sets a bucket draws from
                    -- rates of the records (`fit.fit`) --     which of their clips
                    -- weights, schedule (`mixture`) --        in which shares

A `Plan` holds the answer, and nothing that is open; `Plan.open` gives the batches.  So a worker process that is given
a plan makes the same batches as the process that made it.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from fractions import Fraction
from typing import Any

import grain
import numpy as np

from data_pipelines.loading.clips import BatchAssembler, CachedClips, TokenizerFn
from data_pipelines.loading.fields import fields_of
from data_pipelines.loading.fit import Fit, check_bucket, check_usable, fit, ratio
from data_pipelines.loading.mixture import Mixture, Shares
from data_pipelines.loading.order import BucketPicks, Drawing, Turns, in_turn
from data_pipelines.loading.settings import DataConfig
from data_pipelines.loading.stored import Stored, stored_in
from data_pipelines.shards.latents import CODEC
from data_pipelines.shards.reader import ClipSource
from vdm_jax.types import PER_FRAME_KEYS, Bucket

ORDER_VERSION = 3  # raise it when the order of the clips changes: old states are then refused, not misread


@dataclasses.dataclass(frozen=True)
class Part:
    """A set that a bucket draws from.

    Attributes:
      shards: its directory.
      name: in `data.sets`; "" outside of it.
      fit: which of its clips.
    """

    shards: str
    name: str
    fit: Fit


@dataclasses.dataclass(frozen=True)
class Opened:
    """A plan at work.

    Attributes:
      batches: of each bucket, batch n at position n.
      order: of the run, batch of step k at position k.
      sources: the sets that are read.
    """

    batches: Sequence[grain.MapDataset]
    order: grain.MapDataset
    sources: Mapping[str, ClipSource]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that decides what batch k is, and how it is read.

    Attributes:
      config: section `data`.
      split, seed, shuffle: as in `make_loader`.
      buckets: with their rates filled in.
      parts: of each bucket, the sets it draws from.
      rows: of each bucket, the positions in its global batch that this host loads.
      conditions: of latent sets, what batches hold.
      tokenizer_fn: as in `make_loader`.
      unusable: set -> position -> why, for the clips that are left out.
      manifests: set -> digest of its manifest.
    """

    config: DataConfig
    split: str
    seed: int
    shuffle: bool
    buckets: tuple[Bucket, ...]
    parts: tuple[tuple[Part, ...], ...]
    rows: tuple[np.ndarray, ...]
    conditions: tuple[str, ...]
    tokenizer_fn: TokenizerFn | None
    unusable: Mapping[str, Mapping[int, str]]
    manifests: Mapping[str, str]

    def open(self, sources: Mapping[str, ClipSource] | None = None) -> Opened:
        """Opens the sets, unless they are open.

        Raises:
          RunError: a shard is missing or damaged.
        """
        config = self.config
        sources = open_sources(config, self.split, self.manifests) if sources is None else sources
        size = sum(len(source) * _decoded_bytes(source, config) for source in sources.values())
        cached = size <= config.cache_megabytes << 20 and not (config.resize == "cover" and _any_encoded(sources))
        clips = {shards: CachedClips(source) if cached else source for shards, source in sources.items()}
        drawing = Drawing(self.shuffle, config.random_start, config.flip, config.crop == "random")
        batches = []
        for number, (bucket, parts) in enumerate(zip(self.buckets, self.parts)):
            usable = [part.fit.usable for part in parts]
            mixture = self._mixture(number)
            picks = BucketPicks(bucket, number, usable, self.seed, self.rows[number], drawing, mixture)
            read = [clips[part.shards] for part in parts]
            fields = fields_of(config.fields)
            assembler = BatchAssembler(read, bucket, self.tokenizer_fn, self.conditions, config.resize, fields)
            batches.append(grain.MapDataset.source(picks).map(assembler))
        return Opened(batches, in_turn(self.buckets, batches, self.seed, self.shuffle), sources)

    def without_cache(self) -> "Plan":
        """The same for one process of several, which would each keep all clips."""
        return dataclasses.replace(self, config=dataclasses.replace(self.config, cache_megabytes=0))

    def _mixture(self, number: int) -> Mixture | None:
        """The shares of the sets of a bucket; None for one set."""
        parts, bucket = self.parts[number], self.buckets[number]
        if len(parts) == 1:
            return None
        turns = Turns(self.buckets, self.seed, self.shuffle)
        shares = [Shares(0, _weights(self.config.weights, parts))]
        for stage in self.config.schedule:
            shares.append(Shares(turns.before(stage.step, number), _weights(stage.weights, parts)))
        return Mixture(shares, bucket.batch * len(bucket.clips), (self.seed + number) % 2**32, self.shuffle)

    def fingerprint(self) -> dict[str, Any]:
        """All that decides what batch k is; not the number of hosts, and not where the files lie."""
        config = self.config
        found = {
            "batches": [bucket.name for bucket in self.buckets],
            "weights": [bucket.weight for bucket in self.buckets],
            "manifests": [self.manifests[parts[0].shards] for parts in self.parts],
            "split": self.split,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "random_start": config.random_start,
            "flip": config.flip,
            "order_version": ORDER_VERSION,
        }
        if config.flip:
            found["captions"] = "mirrored"
        if any(len(parts) > 1 for parts in self.parts):
            found["sets"] = [[[part.name, self.manifests[part.shards]] for part in parts] for parts in self.parts]
            found["shares"] = [[0, config.weights], *([stage.step, stage.weights] for stage in config.schedule)]
        if any(part.fit.unusable for parts in self.parts for part in parts):
            found["clips"] = [[part.fit.digest() for part in parts] for parts in self.parts]
        if config.fields:
            found["fields"] = list(config.fields)
        if config.resize != "whole":
            found["resize"] = [config.resize, config.crop]
        return found


def make_plan(
    config: DataConfig,
    split: str,
    buckets: Sequence[Bucket],
    seed: int,
    rows: Callable[[int], np.ndarray],
    tokenizer_fn: TokenizerFn | None,
    shuffle: bool,
    conditions: Collection[str] | None,
) -> tuple[Plan, Mapping[str, ClipSource], Stored | None]:
    """Finds out which clips make the batches; see `make_loader` for the arguments and what it raises.

    Returns:
      the plan, its sets, open, and what latent sets hold.
    """
    buckets = tuple(dataclasses.replace(bucket, fps=bucket.fps or config.fps) for bucket in buckets)
    named = [_sets_of(config, bucket, split) for bucket in buckets]
    directories = dict.fromkeys(shards for sets in named for shards in sets.values())
    sources = open_sources(config, split, directories)
    fields = [f"data.buckets[{number}]" if config.buckets else "data" for number in range(len(buckets))]
    rates: dict[str, np.ndarray] = {}
    parts = tuple(
        _parts(config, bucket, sets, sources, field, rates) for bucket, sets, field in zip(buckets, named, fields)
    )
    _check_all_used(config, named, parts, sources, buckets, fields)
    lowest = min((bucket.fps for bucket in buckets if bucket.fps), default=0.0)
    unusable = check_usable(_fits(parts), config.max_unusable, lowest)
    parts = tuple(tuple(part for part in found if len(part.fit.usable)) for found in parts)
    for bucket, found, field in zip(buckets, parts, fields):
        _check_count(bucket, found, split, field)
        _check_shares(config, bucket, found, field)
    _check_fields(config, buckets, parts, rates)
    stored = stored_in(list(directories))
    if stored is not None and config.fields:
        raise ValueError(f"data.fields: {config.fields[0]!r} is of pixels, and {config.shards} holds latents")
    asked = _asked(stored, conditions, config, buckets)
    mine = tuple(_rows(rows, bucket, field) for bucket, field in zip(buckets, fields))
    manifests = {shards: source.manifest.digest() for shards, source in sources.items()}
    plan = Plan(
        config, split, seed, shuffle, buckets, parts, mine, asked, tokenizer_fn, unusable, manifests
    )  # fmt: skip
    return plan, sources, stored


def usable_clips(config: DataConfig, split: str) -> int:
    """How many clips of the run's own set can be brought to its rate and shape.

    Raises:
      ValueError, RunError: as `ClipSource`.
    """
    source = ClipSource(config.shards, split)
    rates = source.rates() if config.fps else None
    return len(fit(config.bucket(1), config.fps, source.manifest.clip.frames, rates, len(source)).usable)


def _check_fields(config: DataConfig, buckets: Sequence[Bucket], parts, rates: Mapping[str, np.ndarray]) -> None:
    """Refuses fields that the clips of a bucket cannot have."""
    for name, field in zip(config.fields, fields_of(config.fields)):
        for number, (bucket, found) in enumerate(zip(buckets, parts)):
            if bucket.pack:
                raise ValueError(f"data.buckets[{number}].pack: packed clips cannot have {name!r} (data.fields)")
            used = [rates[part.shards][part.fit.usable] for part in found] if bucket.fps and field.whole_rate else []
            if any(ratio(float(rate), bucket.fps) != 1 for clips in used for rate in np.unique(clips)):
                raise ValueError(
                    f"data.fields: {name!r} is between stored frames, of which {bucket.fps:g} fps leaves some out;"
                    " set data.fps to 0, or take 'optical_flow'"
                )


def open_sources(config: DataConfig, split: str, directories: Collection[str]) -> dict[str, ClipSource]:
    """The sets by directory, open, with the arrays that fields need.  Raises as `ClipSource`."""
    needs = tuple(dict.fromkeys(name for field in fields_of(config.fields) for name in field.needs))
    policy = {"on_damage": config.on_damage, "damage_budget": config.damage_budget, "fields": needs}
    try:
        return {shards: ClipSource(shards, split, **policy) for shards in directories}
    except ValueError as error:
        raise ValueError(f"data.{error}" if str(error).startswith("fields") else str(error)) from None


def _sets_of(config: DataConfig, bucket: Bucket, split: str) -> dict[str, str]:
    """Name -> directory of the sets that a bucket may draw from, by name, whatever their order in a file was."""
    if bucket.shards in config.sets:
        return {bucket.shards: config.sets[bucket.shards]}
    if bucket.shards:
        return {"": bucket.shards}
    return dict(sorted(config.sets.items())) if config.sets and split == "train" else {"": config.shards}


def _parts(config: DataConfig, bucket: Bucket, sets: Mapping[str, str], sources, field: str, rates) -> tuple[Part, ...]:
    """The sets of which some clips fill a bucket.

    Raises:
      ValueError: there are none.
    """
    found, why = [], []
    for name, shards in sets.items():
        source = sources[shards]
        try:
            check_bucket(bucket, source.manifest.clip, shards, field, config.resize)
        except ValueError as error:
            if len(sets) == 1:
                raise
            why.append(str(error))
            continue
        if bucket.fps and shards not in rates:
            rates[shards] = source.rates()
        clip = source.manifest.clip
        fits = fit(bucket, bucket.fps, clip.frames, rates.get(shards), len(source))
        found.append(Part(shards, name, fits))
    if not any(len(part.fit.usable) for part in found):
        slow = [f"{shards} has {min(r):g} to {max(r):g} fps" for shards, r in rates.items() if shards in sets.values()]
        raise ValueError(f"{field}: nothing falls into {bucket.name}: {'; '.join(why + slow)}")
    return tuple(found)


def _fits(parts: Sequence[Sequence[Part]]) -> dict[str, list[Fit]]:
    """Set -> its fits, one a bucket that draws from it."""
    fits: dict[str, list[Fit]] = {}
    for part in (part for found in parts for part in found):
        fits.setdefault(part.shards, []).append(part.fit)
    return fits


def _check_all_used(config: DataConfig, named, parts, sources, buckets: Sequence[Bucket], fields) -> None:
    """Refuses a set of the mixture of which no bucket can have a clip."""
    used = {part.name for found in parts for part in found}
    for name in dict.fromkeys(name for sets in named for name in sets if name not in used):
        for bucket, sets, field in zip(buckets, named, fields):
            if name in sets:
                try:
                    check_bucket(bucket, sources[sets[name]].manifest.clip, sets[name], field, config.resize)
                except ValueError as error:
                    raise ValueError(f"data.sets.{name}: fills no bucket; {error}") from None


def _check_count(bucket: Bucket, parts: Sequence[Part], split: str, field: str) -> None:
    clips, there = bucket.batch * len(bucket.clips), sum(len(part.fit.usable) for part in parts)
    if clips > there:
        name = "batch_size" if field == "data" else f"{field}.batch"
        raise ValueError(f"{name}: {clips}, but split {split!r} has only {there} clips")


def _check_shares(config: DataConfig, bucket: Bucket, parts: Sequence[Part], field: str) -> None:
    """Refuses weights by which a bucket has nothing to draw from."""
    stages = [
        ("weights", config.weights),
        *((f"schedule[{i}].weights", s.weights) for i, s in enumerate(config.schedule)),
    ]
    for name, weights in stages if parts[0].name and not bucket.shards else ():
        if weights and not any(weights[part.name] for part in parts):
            sets = ", ".join(part.name for part in parts)
            raise ValueError(f"data.{name}: 0 for {sets}, and {field} draws from nothing else")


def _rows(rows: Callable[[int], np.ndarray], bucket: Bucket, field: str) -> np.ndarray:
    """The rows of a batch that this host loads."""
    mine = np.asarray(rows(bucket.batch))
    if not len(mine):
        name = "batch_size" if field == "data" else f"{field}.batch"
        raise ValueError(f"{name}: {bucket.batch}, which leaves no clip for some of the hosts; there are more of them")
    assert 0 <= mine.min() <= mine.max() < bucket.batch, mine
    return mine


def _asked(
    stored: Stored | None, conditions: Collection[str] | None, config: DataConfig, buckets: Sequence[Bucket]
) -> tuple[str, ...]:
    """The conditions that batches hold; refuses what latents and their conditions cannot have done to them."""
    if stored is None:
        return ()
    for name, why in (("flip", "are not those of the mirrored clip"), ("random_start", "know where the clip starts")):
        if getattr(config, name):
            raise ValueError(f"data.{name}: True, but {config.shards} holds latents, which {why}; set it to False")
    held = stored.spec.conditions
    for name in conditions or ():
        if name not in held:
            raise ValueError(f"data.shards: {config.shards} holds no {name!r}; it has: {', '.join(held) or 'none'}")
    asked = tuple(name for name in held if conditions is None or name in conditions)
    for number, bucket in enumerate(buckets):
        if bucket.pack and (cut := sorted(PER_FRAME_KEYS.intersection(asked))):
            raise ValueError(f"data.buckets[{number}].pack: packed clips cannot have {cut[0]!r}")
    return asked


def _weights(weights: Mapping[str, float], parts: Sequence[Part]) -> tuple[Fraction, ...]:
    """Shares of the sets of a bucket: as they are written, or by the number of clips."""
    if not weights:
        return tuple(Fraction(len(part.fit.usable)) for part in parts)
    return tuple(Fraction(str(weights[part.name])) for part in parts)


def _decoded_bytes(source: ClipSource, config: DataConfig) -> int:
    """Of one clip, with the arrays that fields need; of those that differ in length, what is alike."""
    clip = source.manifest.clip
    names = dict.fromkeys(name for field in fields_of(config.fields) for name in field.needs)
    arrays = [clip.fields[name] for name in names]
    sizes = [np.dtype(array.dtype).itemsize * math.prod(n or 1 for n in array.shape) for array in arrays]
    return clip.decoded_bytes + sum(sizes)


def _any_encoded(sources: Mapping[str, ClipSource]) -> bool:
    """Whether resizing while decoding, which is not quite resizing afterwards, is possible for some set."""
    return any(source.manifest.clip.codec not in ("raw", CODEC) for source in sources.values())
