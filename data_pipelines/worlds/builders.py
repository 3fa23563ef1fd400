"""The worlds as a TFDS builder, for people whose tools take one; it needs no TensorFlow.

    builder = builder_of("planes", data_dir="data")  # or of WorldClips(PlanesConfig(height=64), clips=100)
    builder.download_and_prepare()
    source = builder.as_data_source("train")

An element holds `video` uint8 [T, H, W, 3], `caption`, `fps`, `index`, `labels` (JSON of the attributes) and every
field that the world knows, under its name.  A set that `vdm train` reads, with manifest and digests, is written by
`write.write_world`.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from data_pipelines.worlds.known import WORLDS, world_of
from data_pipelines.worlds.world import FIELDS, ClipFn
from vdm_jax import config as configs
from vdm_jax.errors import did_you_mean


@dataclasses.dataclass(frozen=True)
class WorldClips:
    """Which clips of which world.

    Attributes:
      world: config of the world; its type says which.
      clips, val_clips: of the splits `train` and `val`; without any, there is no `val`.
      held_out: share of the captions that occur only in `val`; only in worlds that can hold captions back.
      seed: of the clips.
    """

    world: Any
    clips: int = 1024
    val_clips: int = 64
    held_out: float = 0.0
    seed: int = 0

    def __post_init__(self):
        if self.clips < 1 or self.val_clips < 0:
            raise ValueError(f"clips: {self.clips!r} and val_clips: {self.val_clips!r}; 1 and 0 at least")
        if self.held_out and world_of(self.world).hold_out is None:
            raise ValueError(f"held_out: {self.held_out!r}; this world cannot hold captions back")

    @property
    def name(self) -> str:
        """The world's, and a digest of all settings: sets of different clips lie in different folders."""
        text = json.dumps(configs.to_dict(self), sort_keys=True)
        return f"{world_of(self.world).name}_{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def split(self, name: str) -> ClipFn:
        """The clips of `train` or `val`."""
        world = world_of(self.world)
        if world.hold_out is None:
            return functools.partial(world.clip, self.world)
        return world.hold_out(self.world, self.held_out, self.seed)[name == "val"]


def builder_of(which: str | WorldClips, data_dir: str | os.PathLike) -> Any:
    """A `tfds.core.GeneratorBasedBuilder` that renders a world into ArrayRecord files.

    Args:
      which: name of a world, with the clips of its default config, or what exactly to render.
      data_dir: under which the set is, or will be.

    Raises:
      ValueError: an unknown world.
    """
    if isinstance(which, str):
        if which not in WORLDS:
            raise ValueError(f"world: {did_you_mean(which, WORLDS)}")
        which = WorldClips(WORLDS[which].config())
    return _builder_class()(clips=which, data_dir=os.fspath(data_dir))


@functools.cache
def _builder_class() -> type:
    import tensorflow_datasets as tfds  # takes a second to import, and its classes are what this one is made of

    class Worlds(tfds.core.GeneratorBasedBuilder):
        """Renders a world into a TFDS data set."""

        name = "worlds"
        VERSION = tfds.core.Version("1.0.0")
        code_path = None  # nothing is downloaded, so tfds need not look for checksums beside this file

        def __init__(self, *, clips: WorldClips, data_dir: str):
            self._clips = clips
            config = tfds.core.BuilderConfig(name=clips.name, description=world_of(clips.world).summary)
            super().__init__(config=config, data_dir=data_dir, file_format="array_record")

        def _info(self) -> tfds.core.DatasetInfo:
            description = self.builder_config.description
            return tfds.core.DatasetInfo(builder=self, description=description, features=_features(self._clips))

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
            counts = {"train": self._clips.clips, "val": self._clips.val_clips}
            return {name: self._generate_examples(name, count) for name, count in counts.items() if count}

        def _generate_examples(self, split: str, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
            return _elements(self._clips, split, count)

    return Worlds


def _features(clips: WorldClips) -> Any:
    import tensorflow_datasets as tfds  # see `_builder_class`

    example = clips.split("train")(0, 0)
    shape = example.video.shape
    stored = {name: FIELDS[name].stored(shape) for name in example.fields}
    arrays = {
        name: tfds.features.Tensor(shape=field.shape, dtype=np.dtype(field.dtype).type, encoding="bytes")
        for name, field in stored.items()
    }
    video = tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding="bytes")
    text, plain = tfds.features.Text, {"fps": np.float32, "index": np.int64}
    return tfds.features.FeaturesDict({"video": video, "caption": text(), "labels": text(), **plain, **arrays})


def _elements(clips: WorldClips, split: str, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
    clip, seed = clips.split(split), 2 * clips.seed + (split == "val")
    for index in range(count):
        example = clip(index, seed)
        yield (
            index,
            {
                "video": example.video,
                "caption": example.caption,
                "labels": json.dumps(configs.to_dict(example.attributes)),
                "fps": clips.world.fps,
                "index": index,
                **example.fields,
            },
        )
