"""What a UNet is made of, checked before anything is built.

Levels are numbered from the finest (0) to the coarsest; the ascending half mirrors the descending one.
"""

import dataclasses

from vdm_jax.attention import check_kernel
from vdm_jax.errors import did_you_mean
from vdm_jax.models.unet.flops import forward_flops
from vdm_jax.models.unet.place import Place
from vdm_jax.nn.stack import check_remat

TEMPORAL = ("none", "convolution", "motion", "mixed")


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """A spatio-temporal UNet: the trunk of latent diffusion (2112.10752) with one of several temporal units.

    Attributes:
      channels: of the clip, in and out.
      concat_channels: channels of `concat`, stacked on the input; 0 is none.
      widths: channels of each level.
      layers: of each level of the descending half; the ascending half has one more.
      heads: attention heads of each level.
      depth: blocks of the spatial transformer behind each residual block of a level; 0 is none.
      mid_depth: the same in the middle, at the coarsest level.
      text_dim: width of `tokens`.
      projection: of the spatial transformers' ends, `linear` or a 1 x 1 `conv` in published files; the same here.
      groups: of all group norms.
      eps: of the residual blocks' norms.
      eps_down, eps_up: the same for each level of the descending and the ascending half where these differ; empty:
        `eps`.
      scalars: names of the entries of `vector`, numbers of the clip that join its time.
      scalar_dim: frequencies of each of them.
      temporal: `none` (frames are pictures), `convolution` (four convolutions over time behind each residual block, a
        transformer over time behind each spatial one: ModelScope 2308.06571), `motion` (a transformer over time with
        positions behind each layer: AnimateDiff 2307.04725), `mixed` (residual and transformer blocks over time, each
        blended with the spatial one that it follows: SVD 2311.15127).
      motion_heads, motion_depth: of the motion modules of each level.
      motion_mid_depth: the same in the middle; 0 is none.
      max_frames: longest clip that motion modules have positions for.
      kernel: how attention is computed, see `attention.KERNELS`.
      remat: of each layer, see `nn.stack.REMAT_POLICIES`.

    Raises:
      ValueError: names the field, what is allowed and the nearest right spelling.
    """

    channels: int = 4
    concat_channels: int = 0
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    layers: tuple[int, ...] = (2, 2, 2, 2)
    heads: tuple[int, ...] = (8, 8, 8, 8)
    depth: tuple[int, ...] = (1, 1, 1, 0)
    mid_depth: int = 1
    text_dim: int = 768
    projection: str = "conv"
    groups: int = 32
    eps: float = 1e-5
    eps_down: tuple[float, ...] = ()
    eps_up: tuple[float, ...] = ()
    scalars: tuple[str, ...] = ()
    scalar_dim: int = 256
    temporal: str = "none"
    motion_heads: tuple[int, ...] = ()
    motion_depth: tuple[int, ...] = ()
    motion_mid_depth: int = 0
    max_frames: int = 32
    kernel: str = "auto"
    remat: str = "none"

    def __post_init__(self):
        for field, allowed in (("temporal", TEMPORAL), ("projection", ("linear", "conv"))):
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field}: {did_you_mean(getattr(self, field), allowed)}")
        check_kernel(self.kernel)
        check_remat(self.remat)
        self._check_lengths()
        for name in ("channels", "text_dim", "groups", "scalar_dim", "max_frames", "mid_depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be 1 or more")
        for width in self.widths:
            if width % self.groups:
                near = max(self.groups, round(width / self.groups) * self.groups)
                raise ValueError(
                    f"widths: {width} is not divisible by groups={self.groups}; the nearest that is: {near}"
                )
        for name in ("heads", "motion_heads"):
            for heads, width in zip(getattr(self, name), self.widths):
                if heads < 1 or width % heads:
                    raise ValueError(f"{name}: {heads} must divide the {width} channels of its level")

    def _check_lengths(self) -> None:
        levels = len(self.widths)
        motion = levels if self.temporal == "motion" else 0
        lengths = {"layers": (levels,), "heads": (levels,), "depth": (levels,)}
        lengths |= {"motion_heads": (motion,), "motion_depth": (motion,)}
        lengths |= {"eps_down": (0, levels), "eps_up": (0, levels)}
        for name, allowed in lengths.items():
            if len(getattr(self, name)) not in allowed:
                raise ValueError(f"{name}: {getattr(self, name)} must have {allowed[-1]} entries, one a level")

    @property
    def in_channels(self) -> int:
        """Channels after `concat` is stacked on the clip."""
        return self.channels + self.concat_channels

    @property
    def time_dim(self) -> int:
        """Width of the time embedding."""
        return 4 * self.widths[0]

    @property
    def classes(self) -> int:
        """It knows no labels."""
        return 0

    @property
    def partition(self) -> str:
        """Frames are dealt to the devices by the layers themselves, and attention takes what it finds."""
        return "auto"

    @property
    def reads(self) -> frozenset[str]:
        """The condition keys this model reads."""
        present = {"tokens": True, "vector": bool(self.scalars), "concat": self.concat_channels > 0}
        return frozenset(key for key, on in present.items() if on)

    @property
    def may_read(self) -> frozenset[str]:
        """`reads` and, where layers over time are blended, `image_only`.

        Clips cannot be packed, as convolutions would see across them.
        """
        return self.reads | ({"image_only"} if self.temporal == "mixed" else set())

    def down(self, level: int) -> list[tuple[int, Place]]:
        """Input channels and place of each layer of a level of the descending half."""
        place = self._place(level, self.depth[level], self.eps_down, self._motion(level))
        before = self.widths[max(level - 1, 0)]
        return [(before if index == 0 else place.channels, place) for index in range(self.layers[level])]

    def up(self, level: int) -> list[tuple[int, Place]]:
        """The same for the ascending half, where each layer also reads what a layer of the descending one gave."""
        place = self._place(level, self.depth[level], self.eps_up, self._motion(level))
        own = [self.widths[min(level + 1, len(self.widths) - 1)]] + [place.channels] * self.layers[level]
        kept = [place.channels] * self.layers[level] + [self.widths[max(level - 1, 0)]]
        return [(a + b, place) for a, b in zip(own, kept)]

    def mid(self) -> list[tuple[int, Place]]:
        """The same for the middle: a layer with attention and one without."""
        last = len(self.widths) - 1
        depths = ((self.mid_depth, self.motion_mid_depth), (0, 0))
        return [(self.widths[last], self._place(last, depth, (), motion)) for depth, motion in depths]

    def _motion(self, level: int) -> int:
        return self.motion_depth[level] if self.motion_depth else 0

    def _place(self, level: int, depth: int, eps: tuple[float, ...], motion_depth: int) -> Place:
        heads = self.motion_heads[level] if self.motion_heads else 0
        own = eps[level] if eps else self.eps
        return Place(self.widths[level], own, self.heads[level], depth, heads, motion_depth)

    def token_grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """The clip's size at the finest level.

        Raises:
          ValueError: more frames than there are positions for.
        """
        if self.temporal == "motion" and frames > self.max_frames:
            raise ValueError(f"frames: {frames} is more than max_frames={self.max_frames}, the positions there are")
        return frames, height, width

    def forward_flops(self, frames: int, height: int, width: int, text_length: int = 0) -> float:
        """Multiply-adds times two of one clip's forward pass; see `flops`."""
        return forward_flops(self, *self.token_grid(frames, height, width), text_length)[0]

    def attention_flops(self, frames: int, height: int, width: int, text_length: int = 0) -> float:
        """The part of `forward_flops` that is scores and values."""
        return forward_flops(self, *self.token_grid(frames, height, width), text_length)[1]
