"""The worlds as a TFDS builder, for people whose tools take one; it needs no TensorFlow.

    builder = Worlds(config="planes", data_dir="data", file_format="array_record")
    builder.download_and_prepare()
    source = builder.as_data_source("train")

`config` is the name of a world, with the clips of its default config, or a `WorldBuilderConfig` of any.  An element
holds `video` uint8 [T, H, W, 3], `caption`, `fps`, `index`, `labels` (JSON of the attributes) and every field that the
world knows, under its name.  A set that `vdm train` reads, with manifest and digests, is written by
`write.write_world`.
"""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.worlds.known import WORLDS, world_of
from data_pipelines.worlds.world import FIELDS, Example
from vdm_jax import config as configs
from vdm_jax.errors import did_you_mean


@dataclasses.dataclass(eq=False)
class WorldBuilderConfig(tfds.core.BuilderConfig):
    """Which clips of which world.

    Attributes:
      world: config of the world; its type says which.
      clips, val_clips: of the splits `train` and `val`; without any, there is no `val`.
      held_out: share of the captions that occur only in `val`; only in worlds that can hold captions back.
      seed: of the clips.
    """

    world: Any = None
    clips: int = 1024
    val_clips: int = 64
    held_out: float = 0.0
    seed: int = 0

    def __post_init__(self):
        if self.clips < 1 or self.val_clips < 0:
            raise ValueError(f"clips: {self.clips!r} and val_clips: {self.val_clips!r}; 1 and 0 at least")
        if self.held_out and world_of(self.world).hold_out is None:
            raise ValueError(f"held_out: {self.held_out!r}; this world cannot hold captions back")


class Worlds(tfds.core.GeneratorBasedBuilder):
    """Renders a world into a TFDS data set."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # nothing is downloaded, so tfds need not look for checksums beside this file
    BUILDER_CONFIGS = [
        WorldBuilderConfig(name=name, description=world.summary, world=world.config()) for name, world in WORLDS.items()
    ]

    def __init__(self, *, config: str | WorldBuilderConfig, **options: Any):
        """As any builder's; `config` says which world, and there is no default.

        Raises:
          ValueError: an unknown world.
        """
        if isinstance(config, str) and config not in WORLDS:
            raise ValueError(f"config: {did_you_mean(config, WORLDS)}")
        super().__init__(config=config, **options)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self, description=self.builder_config.description, features=self._features()
        )

    def _features(self) -> tfds.features.FeaturesDict:
        example = self._clips("train")(0, 0)
        stored = {name: FIELDS[name].stored(example.video.shape) for name in example.fields}
        arrays = {
            name: tfds.features.Tensor(shape=field.shape, dtype=np.dtype(field.dtype).type, encoding="bytes")
            for name, field in stored.items()
        }
        return tfds.features.FeaturesDict(
            {
                "video": tfds.features.Tensor(shape=example.video.shape, dtype=np.uint8, encoding="bytes"),
                "caption": tfds.features.Text(),
                "labels": tfds.features.Text(),
                "fps": np.float32,
                "index": np.int64,
                **arrays,
            }
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        config = self.builder_config
        splits = {"train": self._generate_examples("train", config.clips)}
        if config.val_clips:
            splits["val"] = self._generate_examples("val", config.val_clips)
        return splits

    def _generate_examples(self, split: str, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
        clip, seed = self._clips(split), 2 * self.builder_config.seed + (split == "val")
        for index in range(count):
            yield index, self._element(clip(index, seed), index)

    def _element(self, example: Example, index: int) -> dict[str, Any]:
        return {
            "video": example.video,
            "caption": example.caption,
            "labels": json.dumps(configs.to_dict(example.attributes)),
            "fps": self.builder_config.world.fps,
            "index": index,
            **example.fields,
        }

    def _clips(self, split: str):
        config = self.builder_config
        world = world_of(config.world)
        if world.hold_out is None:
            return lambda index, seed: world.clip(config.world, index, seed)
        return world.hold_out(config.world, config.held_out, config.seed)[split == "val"]
