"""Writes a world as a shard set: training clips, and validation clips whose captions never occur in training."""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from data_pipelines.shards.manifest import ClipSpec, Manifest
from data_pipelines.shards.schema import ClipRecord, pack_pixels
from data_pipelines.shards.writer import open_writer
from data_pipelines.worlds import sprites
from data_pipelines.worlds.sprites import Sprite, SpritesConfig
from vdm_jax import config as configs


def write_world(
    out: str | Path,
    config: SpritesConfig,
    clips: int,
    *,
    val_clips: int = 64,
    held_out: float = 0.25,
    seed: int = 0,
    codec: str = "raw",
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Renders clips of `sprites` into a shard set with the splits `train` and `val`.

    Args:
      out: directory to make.
      config: the world.
      clips: number of training clips; they cycle through the training combinations.
      val_clips: number of validation clips; they cycle through the held-out combinations.
      held_out: share of the attribute combinations that occur only in `val`; 0 lets `val` share all of them.
      seed: of the split, and of sizes and positions.
      codec: as `schema.CODECS`.
      overwrite: replace a set that is there.
      progress: called with (clips done, clips) after each clip.

    Raises:
      ValueError: a field out of range, or `out` exists.
      RunError: the disk fails; nothing is left behind.
    """
    if clips < 1 or val_clips < 0:
        name, value = ("clips", clips) if clips < 1 else ("val_clips", val_clips)
        raise ValueError(f"{name}: {value!r} is too small")
    train, val = sprites.split(held_out, seed, config)
    world = configs.to_dict(config)
    settings = {"world": world, "clips": clips, "val_clips": val_clips, "held_out": held_out, "seed": seed}
    records = itertools.chain(
        _records(config, "train", clips, train, 2 * seed, codec),
        _records(config, "val", val_clips, val or train, 2 * seed + 1, codec),
    )
    with open_writer(out, ClipSpec(config.frames, config.height, config.width, codec), overwrite=overwrite) as writer:
        for done, record in enumerate(records, 1):
            writer.add(record)
            if progress is not None:
                progress(done, clips + val_clips)
        provenance = {"pipeline": "worlds/sprites", "train_combinations": len(train), "held_out": len(val)}
        return writer.finish(provenance, settings)


def _records(
    config: SpritesConfig, split: str, count: int, combos: Sequence[Sprite], seed: int, codec: str
) -> Iterator[ClipRecord]:
    for i in range(count):
        pixels, shown = sprites.clip(i, config, combos, seed)
        yield ClipRecord(
            video=pack_pixels(pixels, codec, config.fps),
            codec=codec,
            caption=sprites.caption(shown),
            fps=config.fps,
            frames=config.frames,
            height=config.height,
            width=config.width,
            source="sprites",
            start=0.0,
            split=split,
            index=i,
            labels=json.dumps(configs.to_dict(shown)),
        )
