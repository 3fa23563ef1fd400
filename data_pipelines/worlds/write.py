"""Writes a world as a shard set: training clips, and validation clips whose captions never occur in training."""

import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.shards.manifest import ClipSpec, Manifest
from data_pipelines.shards.schema import ClipRecord, StoredField, pack_pixels
from data_pipelines.shards.writer import open_writer
from data_pipelines.worlds.known import world_of
from data_pipelines.worlds.world import FIELDS, ClipFn, Example, World
from vdm_jax import config as configs
from vdm_jax.errors import did_you_mean

HELD_OUT = 0.25


def write_world(
    out: str | Path,
    config: Any,
    clips: int,
    *,
    val_clips: int = 64,
    held_out: float | None = None,
    seed: int = 0,
    codec: str = "raw",
    fields: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Renders clips of a world into a shard set with the splits `train` and `val`.

    Args:
      out: directory to make.
      config: of the world; its type says which.
      clips: number of training clips.
      val_clips: number of validation clips.
      held_out: share of the captions that occur only in `val`; 0 lets `val` share all of them.  By default a quarter
        in worlds that can hold captions back.
      seed: which captions, and which clips; those of `val` are never those of `train`.
      codec: as `schema.CODECS`.
      fields: which of the fields that the world knows to store beside the pixels; None stores all.
      overwrite: replace a set that is there.
      progress: called with (clips done, clips) after each clip.

    Raises:
      ValueError: a field out of range, or `out` exists.
      RunError: the disk fails; nothing is left behind.
    """
    for name, value, least in (("clips", clips, 1), ("val_clips", val_clips, 0), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name}: {value!r}; at least {least}")
    world = world_of(config)
    share = (HELD_OUT if world.hold_out else 0.0) if held_out is None else held_out
    train, val = _halves(world, config, share, seed)
    stored = _stored(train(0, 2 * seed), fields)
    settings = {
        "world": configs.to_dict(config),
        "clips": clips,
        "val_clips": val_clips,
        "held_out": share,
        "seed": seed,
    }
    pack = functools.partial(_record, world=world.name, fps=config.fps, codec=codec, names=tuple(stored))
    records = itertools.chain(
        _records(train, "train", clips, 2 * seed, pack), _records(val, "val", val_clips, 2 * seed + 1, pack)
    )
    spec = ClipSpec(config.frames, config.height, config.width, codec, stored)
    with open_writer(out, spec, overwrite=overwrite) as writer:
        for done, record in enumerate(records, 1):
            writer.add(record)
            if progress is not None:
                progress(done, clips + val_clips)
        return writer.finish({"pipeline": f"worlds/{world.name}"}, settings)


def _halves(world: World, config: Any, share: float, seed: int) -> tuple[ClipFn, ClipFn]:
    if world.hold_out is not None:
        return world.hold_out(config, share, seed)
    if share:
        raise ValueError(f"held_out: {share!r}; the world {world.name!r} cannot hold captions back, only 0 is possible")
    every = functools.partial(world.clip, config)
    return every, every


def _stored(example: Example, names: Sequence[str] | None) -> Mapping[str, StoredField]:
    """What a set stores of the fields of such examples."""
    for name in names or ():
        if name not in example.fields:
            known = did_you_mean(name, example.fields) if example.fields else f"no {name!r}; this world knows none"
            raise ValueError(f"fields: {known}")
    shape = example.video.shape
    kept = example.fields if names is None else [name for name in example.fields if name in names]
    return {name: FIELDS[name].stored(shape) for name in kept}


def _records(
    clip: ClipFn, split: str, count: int, seed: int, pack: Callable[[Example, str, int], ClipRecord]
) -> Iterator[ClipRecord]:
    for i in range(count):
        yield pack(clip(i, seed), split, i)


def _record(
    example: Example, split: str, index: int, *, world: str, fps: float, codec: str, names: Sequence[str]
) -> ClipRecord:
    frames, height, width = example.video.shape[:3]
    return ClipRecord(
        video=pack_pixels(example.video, codec, fps),
        codec=codec,
        caption=example.caption,
        fps=fps,
        frames=frames,
        height=height,
        width=width,
        source=world,
        start=0.0,
        split=split,
        index=index,
        labels=json.dumps(configs.to_dict(example.attributes)),
        fields={name: example.fields[name] for name in names},
    )
