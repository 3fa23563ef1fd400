"""What a Wan transformer is made of, checked before anything is built."""

import dataclasses
import math

from vdm_jax.attention import check_kernel
from vdm_jax.models.dit.layout import check_partition
from vdm_jax.nn.stack import check_remat

FREQUENCIES = 256


@dataclasses.dataclass(frozen=True)
class WanConfig:
    """A Wan transformer (2503.20314; 2.1 and 2.2, text- and image-to-video).  The defaults are those of 14B.

    Attributes:
      channels: of the clip, in and out.
      concat_channels: channels of `concat`, stacked on the input: a mask and the given frames; 0 is text-to-video.
      patch: (frames, height, width) of the clip that one token holds.
      dim, depth, heads: width, blocks, attention heads.
      mlp_dim: hidden channels of the MLP.
      text_dim: width of the text features.
      frequencies: of the sinusoids of the time.
      cross_norm: a layer norm with scale and bias before cross-attention.
      image_dim: width of the picture features `image`; 0 is a model without.
      image_keys: blocks read the picture with keys and values of its own.
      image_positions: tokens of the learned positions that are added to the picture features; 0 is none.
      kernel: how attention is computed, see `attention.KERNELS`.
      partition: how it is shared out over the `context` axis of a mesh, see `models.dit.layout`.
      remat: see `nn.stack.REMAT_POLICIES`.

    Raises:
      ValueError: names the field and what is allowed.
    """

    channels: int = 16
    concat_channels: int = 0
    patch: tuple[int, int, int] = (1, 2, 2)
    dim: int = 5120
    depth: int = 40
    heads: int = 40
    mlp_dim: int = 13_824
    text_dim: int = 4096
    frequencies: int = FREQUENCIES
    cross_norm: bool = True
    image_dim: int = 0
    image_keys: bool = False
    image_positions: int = 0
    kernel: str = "auto"
    partition: str = "auto"
    remat: str = "none"

    def __post_init__(self):
        check_kernel(self.kernel)
        check_partition("full", self.partition)
        check_remat(self.remat)
        counts = ("channels", "dim", "depth", "heads", "mlp_dim", "text_dim", "frequencies")
        for name, value in {**{name: getattr(self, name) for name in counts}, "patch": min(self.patch)}.items():
            if value < 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be 1 or more")
        if self.dim % self.heads or self.dim // self.heads % 2:
            raise ValueError(f"heads: {self.heads} must divide dim={self.dim} into an even number of channels")
        if self.frequencies % 2:
            raise ValueError(f"frequencies: {self.frequencies} must be even, a sine and a cosine each")
        if bool(self.image_dim) != self.image_keys:
            raise ValueError(f"image_keys: {self.image_keys} does not go with image_dim={self.image_dim}")
        if self.image_positions and not self.image_dim:
            raise ValueError(f"image_positions: {self.image_positions} needs image_dim > 0")

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def in_channels(self) -> int:
        """Channels after `concat` is stacked on the clip."""
        return self.channels + self.concat_channels

    @property
    def image_tokens(self) -> int:
        """Tokens of `image`: as many as there are positions, or those of CLIP-H, 16 x 16 patches and the class."""
        return self.image_positions or (257 if self.image_dim else 0)

    @property
    def classes(self) -> int:
        """It knows no labels."""
        return 0

    @property
    def scalars(self) -> tuple[str, ...]:
        """It reads no entries of `vector`."""
        return ()

    @property
    def reads(self) -> frozenset[str]:
        """The condition keys this model reads."""
        present = {"tokens": True, "concat": self.concat_channels > 0, "image": self.image_dim > 0}
        return frozenset(key for key, on in present.items() if on)

    @property
    def may_read(self) -> frozenset[str]:
        """The same: there is nothing that it reads only where it is given."""
        return self.reads

    def token_grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """The clip's size in tokens.

        Raises:
          ValueError: a size that the patch does not divide.
        """
        grid = []
        for name, size, patch in zip(("frames", "height", "width"), (frames, height, width), self.patch):
            if size % patch:
                near = max(patch, round(size / patch) * patch)
                raise ValueError(f"{name}: {size} is not divisible by the patch {patch}; the nearest that is: {near}")
            grid.append(size // patch)
        return tuple(grid)

    def forward_flops(self, frames: int, height: int, width: int, text_length: int = 0) -> float:
        """Multiply-adds times two of one clip's forward pass: matrix products and attention, without the picture.

        For N tokens in T frames, width D, MLP width M and L text tokens of width E:

            a block        8 N D^2 (QKV, output) + 4 N D M + 4 (N + L) D^2 (cross-attention), and `attention_flops`
            the ends       2 N D (patch in + patch out), 2 L D (E + D), 2 T D (F + 7 D) for F frequencies
        """
        t, h, w = self.token_grid(frames, height, width)
        tokens, d = t * h * w, self.dim
        block = tokens * (8 * d * d + 4 * d * self.mlp_dim) + 4 * (tokens + text_length) * d * d
        ends = 2 * tokens * d * math.prod(self.patch) * (self.in_channels + self.channels)
        ends += 2 * text_length * d * (self.text_dim + d) + 2 * t * d * (self.frequencies + 7 * d)
        return self.depth * block + ends + self.attention_flops(frames, height, width, text_length)

    def attention_flops(self, frames: int, height: int, width: int, text_length: int = 0) -> float:
        """The part of `forward_flops` that is scores and values: 4 D for each pair of a query and a key it sees."""
        tokens = math.prod(self.token_grid(frames, height, width))
        return self.depth * 4.0 * tokens * (tokens + text_length) * self.dim
