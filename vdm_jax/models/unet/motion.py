"""Motion modules by themselves, as AnimateDiff publishes them, and how they are put into a UNet of pictures.

Parameters of an adapter have the paths that they have in the `UNet` they are put into.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from vdm_jax.attention import check_kernel
from vdm_jax.models.unet.config import UNetConfig
from vdm_jax.models.unet.place import Place
from vdm_jax.models.unet.temporal import TemporalTransformer, motion_module


@dataclasses.dataclass(frozen=True)
class MotionConfig:
    """The motion modules of a UNet (AnimateDiff 2307.04725).

    Attributes:
      widths: channels of each level.
      layers: of each level of the descending half; the ascending half has one more.
      heads, depth: of the modules of each level.
      mid_depth: the same in the middle; 0 is none.
      groups: of the norms.
      max_frames: longest clip that there are positions for.
      kernel: how attention is computed, see `attention.KERNELS`.

    Raises:
      ValueError: names the field and what is allowed.
    """

    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    layers: tuple[int, ...] = (2, 2, 2, 2)
    heads: tuple[int, ...] = (8, 8, 8, 8)
    depth: tuple[int, ...] = (1, 1, 1, 1)
    mid_depth: int = 1
    groups: int = 32
    max_frames: int = 32
    kernel: str = "auto"

    def __post_init__(self):
        check_kernel(self.kernel)
        for name in ("layers", "heads", "depth"):
            if len(getattr(self, name)) != len(self.widths):
                raise ValueError(f"{name}: {getattr(self, name)} must have {len(self.widths)} entries, one a level")
        for heads, width in zip(self.heads, self.widths):
            if width % heads or width % self.groups:
                raise ValueError(f"widths: {width} must be divisible by heads={heads} and groups={self.groups}")

    def place(self, level: int, depth: int) -> Place:
        """Where a module stands."""
        return Place(self.widths[level], 0.0, 0, 0, self.heads[level], depth)


class MotionLayer(nnx.Module):
    """A layer of which only the motion module is there."""

    def __init__(self, module: TemporalTransformer | None):
        self.attention_time = module


class MotionLevel(nnx.Module):
    """The motion modules of one level."""

    def __init__(self, cfg: MotionConfig, level: int, count: int, rngs: nnx.Rngs):
        place = cfg.place(level, cfg.depth[level])
        self.layers = nnx.List([MotionLayer(motion_module(cfg, place, rngs)) for _ in range(count)])


class MotionAdapter(nnx.Module):
    """The modules of `MotionConfig`; nothing that runs by itself."""

    def __init__(self, config: MotionConfig, rngs: nnx.Rngs):
        self.config = config
        counts = list(enumerate(config.layers))
        self.down = nnx.List([MotionLevel(config, level, count, rngs) for level, count in counts])
        middle = config.place(len(config.widths) - 1, config.mid_depth)
        self.mid = nnx.List([MotionLayer(motion_module(config, middle, rngs))])
        self.up = nnx.List([MotionLevel(config, level, count + 1, rngs) for level, count in reversed(counts)])


def animated(pictures: UNetConfig, adapter: MotionConfig) -> UNetConfig:
    """The UNet of a UNet of pictures and an adapter.

    Raises:
      ValueError: they do not fit, or the UNet has a temporal unit already.
    """
    if pictures.temporal != "none":
        raise ValueError(f"temporal: {pictures.temporal!r}, but motion modules are put into a UNet with 'none'")
    for name in ("widths", "layers", "groups"):
        if getattr(pictures, name) != getattr(adapter, name):
            raise ValueError(f"{name}: {getattr(adapter, name)} of the adapter, {getattr(pictures, name)} of the UNet")
    return dataclasses.replace(
        pictures,
        temporal="motion",
        motion_heads=adapter.heads,
        motion_depth=adapter.depth,
        motion_mid_depth=adapter.mid_depth,
        max_frames=adapter.max_frames,
    )


def animated_params(pictures: Mapping[str, Any], modules: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of that UNet from those of the two, which must fit (see `animated`).

    Args:
      pictures: nested dict of the UNet of pictures.
      modules: the same of the adapter; taken in the dtype of the UNet, as published pipelines do.
    """
    trunk, added = flatten_dict(pictures), flatten_dict(modules)
    assert not trunk.keys() & added.keys(), "an adapter has parameters of the trunk"
    dtype = next(iter(trunk.values())).dtype
    return unflatten_dict(trunk | {path: leaf.astype(dtype) for path, leaf in added.items()})


def motion_modules(config: UNetConfig, params: Mapping[str, Any]) -> tuple[MotionConfig, dict[str, Any]]:
    """The adapter of a UNet with `temporal="motion"` and its parameters, the inverse of `animated`.

    Args:
      config: of the UNet.
      params: nested dict of it.
    """
    sizes = (config.widths, config.layers, config.motion_heads, config.motion_depth, config.motion_mid_depth)
    adapter = MotionConfig(*sizes, groups=config.groups, max_frames=config.max_frames)
    own = {path: leaf for path, leaf in flatten_dict(params).items() if "attention_time" in path}
    return adapter, unflatten_dict(own)
