"""What a CogVideoX transformer is made of, checked before anything is built."""

import dataclasses
import math

import numpy as np

from vdm_jax.attention import check_kernel
from vdm_jax.errors import did_you_mean
from vdm_jax.models.dit.layout import check_partition
from vdm_jax.nn.stack import check_remat

POSITIONS = ("sincos", "rope", "rope_learned")
Grid = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class CogVideoXConfig:
    """A CogVideoX transformer (2408.06072; 1.0 and 1.5, text- and image-to-video).  The defaults are those of 2B.

    Attributes:
      channels: of the clip, in and out.
      concat_channels: channels of `concat`, stacked on the input: the given frames; 0 is text-to-video.
      patch: (frames, height, width) of the clip that one token holds; two frames are version 1.5.
      dim, depth, heads: width, number of blocks, attention heads.
      time_dim: width of the time embedding.
      offset: read `vector["ofs"]`, a number that image-to-video of 1.5 is told (2 at all times).
      text_dim: width of the text features.
      text_length: most text tokens.
      positions: `sincos` is added to the tokens, `rope` turns queries and keys, `rope_learned` also adds a table.
      sample: (frames, height, width) of the latents that positions are measured by.  A clip of another size has the
        angles of a `rope` stretched to it in version 1.0, and a part of them in 1.5, which is nowhere larger.
      space_scale, time_scale: what positions are divided by for `sincos`.
      norm_eps: of the layer norms of tokens.
      kernel: see `attention.KERNELS`.
      partition: see `models.dit.layout`.
      remat: see `nn.stack.REMAT_POLICIES`.

    Raises:
      ValueError: names the field, what is allowed and the nearest right spelling.
    """

    channels: int = 16
    concat_channels: int = 0
    patch: Grid = (1, 2, 2)
    dim: int = 1920
    depth: int = 30
    heads: int = 30
    time_dim: int = 512
    offset: bool = False
    text_dim: int = 4096
    text_length: int = 226
    positions: str = "sincos"
    sample: Grid = (13, 60, 90)
    space_scale: float = 1.875
    time_scale: float = 1.0
    norm_eps: float = 1e-5
    kernel: str = "auto"
    partition: str = "auto"
    remat: str = "none"

    def __post_init__(self):
        if self.positions not in POSITIONS:
            raise ValueError(f"positions: {did_you_mean(self.positions, POSITIONS)}")
        check_kernel(self.kernel)
        check_partition("full", self.partition)
        check_remat(self.remat)
        for name in ("channels", "dim", "depth", "heads", "time_dim", "text_dim", "text_length", "patch", "sample"):
            if np.min(getattr(self, name)) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be 1 or more")
        if self.concat_channels < 0:
            raise ValueError(f"concat_channels: {self.concat_channels} must be 0 or more")
        if self.patch[1] != self.patch[2]:
            raise ValueError(f"patch: {self.patch} must be as high as it is wide")
        if self.dim % self.heads:
            raise ValueError(f"heads: {self.heads} must divide dim={self.dim}")
        if self.patch[0] > 1 and self.positions != "rope":
            raise ValueError(f"positions: {self.positions!r} must be 'rope' where a patch has {self.patch[0]} frames")
        if self.positions == "sincos" and self.dim % 16:
            raise ValueError(f"dim: {self.dim} must be a multiple of 16 when positions='sincos'")
        if self.positions != "sincos" and self.head_dim % 16:
            raise ValueError(f"heads: {self.heads} must divide dim={self.dim} into multiples of 16, for a rope")

    @property
    def attention(self) -> str:
        """Every token sees the whole clip."""
        return "full"

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def in_channels(self) -> int:
        """Channels after `concat` is stacked on the clip."""
        return self.channels + self.concat_channels

    @property
    def sample_grid(self) -> Grid:
        """`sample` in tokens; what is over is cut off."""
        return tuple(n // p for n, p in zip(self.sample, self.patch))

    @property
    def classes(self) -> int:
        """It knows no labels."""
        return 0

    @property
    def scalars(self) -> tuple[str, ...]:
        """Entries of `vector` that it reads."""
        return ("ofs",) if self.offset else ()

    @property
    def reads(self) -> frozenset[str]:
        """The condition keys this model reads."""
        present = {"tokens": True, "concat": self.concat_channels > 0, "vector": self.offset}
        return frozenset(key for key, on in present.items() if on)

    @property
    def may_read(self) -> frozenset[str]:
        """The same: there is nothing that it reads only where it is given."""
        return self.reads

    def token_grid(self, frames: int, height: int, width: int) -> Grid:
        """The clip's size in tokens.

        Raises:
          ValueError: a size that the patch does not divide, or that the positions do not know.
        """
        grid, sizes = [], {"frames": frames, "height": height, "width": width}
        for (name, size), patch in zip(sizes.items(), self.patch):
            if size % patch:
                near = max(patch, round(size / patch) * patch)
                raise ValueError(f"{name}: {size} is not divisible by the patch {patch}; the nearest that is: {near}")
            grid.append(size // patch)
        for dim, name in ((1, "height"), (2, "width")):
            full = self.sample[dim]
            if self.positions == "rope_learned" and sizes[name] != full:
                raise ValueError(f"{name}: {sizes[name]} is not {full}, that of the learned positions")
            if self.positions != "sincos" and self.patch[0] > 1 and grid[dim] > self.sample_grid[dim]:
                raise ValueError(f"{name}: {sizes[name]} is more than {full}, where the positions end")
        return tuple(grid)

    def forward_flops(self, frames: int, height: int, width: int, text_length: int = 0) -> float:
        """Multiply-adds times two of one clip's forward pass: matrix products and attention, nothing else.

        For N clip tokens in T frames, L text tokens of width E, width D, and a time embedding of width M:

            a block     QKV and output 8 (N + L) D^2, MLP 16 (N + L) D^2, adaLN 24 (T + 1) M D; `attention_flops`
            the ends    2 N D (patch in + patch out), 2 L E D, 4 T M D, 2 (D M + M^2) for each time, 4 M^2 for `ofs`
        """
        t, h, w = self.token_grid(frames, height, width)
        tokens, d, m = t * h * w, self.dim, self.time_dim
        block = 24 * (tokens + text_length) * d * d + 24 * (t + 1) * m * d
        ends = 2 * tokens * d * math.prod(self.patch) * (self.in_channels + self.channels)
        ends += 2 * text_length * self.text_dim * d + 4 * t * m * d
        ends += 2 * frames * (d * m + m * m) + (4 * m * m if self.offset else 0)
        return self.depth * block + ends + self.attention_flops(frames, height, width, text_length)

    def attention_flops(self, frames: int, height: int, width: int, text_length: int = 0) -> float:
        """The part of `forward_flops` that is scores and values: 4 D for each pair of a query and a key it sees."""
        sequence = math.prod(self.token_grid(frames, height, width)) + text_length
        return self.depth * 4.0 * sequence**2 * self.dim
