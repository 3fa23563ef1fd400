"""What a DiT is made of, checked before anything is built."""

import dataclasses
import math

from vdm_jax.attention import check_kernel
from vdm_jax.errors import did_you_mean
from vdm_jax.models.dit.layout import check_partition
from vdm_jax.nn.mlp import GATED, check_activation
from vdm_jax.nn.stack import check_remat

_CHOICES = {
    "attention": ("full", "factorised"),
    "temporal": ("block", "attention_first"),
    "adaln": ("single", "per_block"),
    "positions": ("none", "learned", "sincos", "apart"),
    "text_projection": ("linear", "mlp"),
    "qk_norm": ("none", "head", "all"),
}


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """A spatio-temporal diffusion transformer (DiT 2212.09748, Latte 2401.03048, Wan 2503.20314).

    Attributes:
      channels: of the clip, in and out.
      patch: (frames, height, width) of the clip that one token holds.
      dim, depth, heads: width, number of scanned units (a unit of the factorised form is a spatial and a temporal
        block), attention heads.
      mlp_dim: hidden channels of the MLP; 0 means 4 * dim.
      mlp: `gelu`, `relu2`, `silu`, `swiglu` or `geglu`.
      attention: `full` over all tokens of the clip, or `factorised` into space and time.
      temporal: what the temporal part of a factorised unit is: a `block` of its own behind the spatial one (Latte), or
        attention alone in front of it, which hears nothing of the time (`attention_first`: VDT 2305.13311).
      causal: a frame sees itself and earlier frames only.
      adaln: `single` (one projection of the time for all blocks plus a table in each and one for the output, PixArt
        2310.00426) or `per_block` (a projection in each block and one for the output).
      rope: rotary positions over (t, h, w).
      positions: table added to the tokens: `none`, `learned`, `sincos` of (t, h, w), or `apart`, sincos in the frame at
        the entrance and in time before the first temporal block (Latte).
      grid: (frames, height, width) of the largest clip in tokens, for the `learned` table; `apart` stretches its
        height and width over every frame.
      qk_norm: RMS norm of queries and keys per `head`, over `all` heads, or `none`.
      text_dim: width of the text features; 0 is a model without text.
      text_projection: of these features, one `linear` layer or an `mlp` of two (PixArt).
      cross_norm: layer norm of the tokens before they read the text.
      pooled_text: add the mean text feature to the time embedding, so that adaLN hears the prompt too.
      classes: number of labels of `vector["label"]`; 0 is none.
      scalars: names of other entries of `vector` (fps, motion ...).
      concat_channels: channels of `concat`, stacked on the input; 0 is none.
      known_channel: read `known` as one more input channel.
      known_merge: read `known` (of whole frames) as one more channel before the first temporal block, where one layer
        that starts as the identity merges it (Ca2-VDM 2411.16375).
      prefix: each frame that is not given also reads the tokens of the last so many given ones, in every spatial block,
        see `prefix.PrefixAttention`; 0 is none.
      cyclic: places in time begin where the condition `start` says and repeat after `grid[0]` frames.
      kernel: how attention is computed, see `attention.KERNELS`.
      partition: how it is shared out over the `context` axis of a mesh, see `layout`.
      remat: see `nn.stack.REMAT_POLICIES`.

    Raises:
      ValueError: names the field, what is allowed and the nearest right spelling.
    """

    channels: int = 3
    patch: tuple[int, int, int] = (1, 2, 2)
    dim: int = 384
    depth: int = 12
    heads: int = 6
    mlp_dim: int = 0
    mlp: str = "gelu"
    attention: str = "full"
    temporal: str = "block"
    causal: bool = False
    adaln: str = "single"
    rope: bool = True
    positions: str = "none"
    grid: tuple[int, int, int] = (0, 0, 0)
    qk_norm: str = "head"
    text_dim: int = 0
    text_projection: str = "linear"
    cross_norm: bool = True
    pooled_text: bool = False
    classes: int = 0
    scalars: tuple[str, ...] = ()
    concat_channels: int = 0
    known_channel: bool = False
    known_merge: bool = False
    prefix: int = 0
    cyclic: bool = False
    kernel: str = "auto"
    partition: str = "auto"
    remat: str = "none"

    def __post_init__(self):
        for field, allowed in _CHOICES.items():
            value = getattr(self, field)
            if value not in allowed:
                raise ValueError(f"{field}: {did_you_mean(value, allowed)}")
        check_activation(self.mlp)
        check_kernel(self.kernel)
        check_partition(self.attention, self.partition)
        check_remat(self.remat)
        counts = {name: getattr(self, name) for name in ("channels", "dim", "depth", "heads")}
        for name, value in {**counts, "patch": min(self.patch)}.items():
            if value < 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be 1 or more")
        if self.dim % self.heads or self.dim // self.heads % 2:
            raise ValueError(f"heads: {self.heads} must divide dim={self.dim} into an even number of channels")
        if self.pooled_text and not self.text_dim:
            raise ValueError("pooled_text: True needs text_dim > 0")
        if self.temporal != "block" and self.attention != "factorised":
            raise ValueError(f"temporal: {self.temporal!r} needs attention='factorised'")
        if self.positions in ("learned", "apart") and min(self.grid) < 1:
            raise ValueError(f"grid: {self.grid} must be the clip's size in tokens when positions={self.positions!r}")
        if self.positions == "apart" and (self.attention != "factorised" or self.dim % 4):
            raise ValueError("positions: 'apart' needs attention='factorised' and a dim that is a multiple of 4")
        if self.prefix < 0:
            raise ValueError(f"prefix: {self.prefix} must be a number of frames, or 0 for none")
        for name in ("known_merge", "prefix"):
            if getattr(self, name) and self.attention != "factorised":
                raise ValueError(f"{name}: {getattr(self, name)} needs attention='factorised'")
        if self.cyclic and self.positions not in ("learned", "apart"):
            raise ValueError(f"cyclic: True needs a table of places in time, positions='apart' or 'learned', not "
                             f"{self.positions!r}")  # fmt: skip

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def hidden(self) -> int:
        return self.mlp_dim or 4 * self.dim

    @property
    def in_channels(self) -> int:
        """Channels after `concat` and `known` are stacked on the clip."""
        return self.channels + self.concat_channels + int(self.known_channel)

    @property
    def reads(self) -> frozenset[str]:
        """The condition keys this model reads."""
        present = {
            "tokens": self.text_dim > 0,
            "vector": self.classes > 0 or bool(self.scalars),
            "concat": self.concat_channels > 0,
            "known": self.known_channel or self.known_merge or self.prefix > 0,
        }
        return frozenset(key for key, on in present.items() if on)

    @property
    def may_read(self) -> frozenset[str]:
        """What it reads where it is given: the keys of `reads`, and which frames belong together, and where."""
        return self.reads | {"segments", "length"} | ({"start"} if self.cyclic else set())

    def token_grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """The clip's size in tokens.

        Raises:
          ValueError: a size that the patch does not divide, or a clip beyond the learned table.
        """
        grid = []
        for name, size, patch in zip(("frames", "height", "width"), (frames, height, width), self.patch):
            if size % patch:
                near = max(patch, round(size / patch) * patch)
                raise ValueError(f"{name}: {size} is not divisible by the patch {patch}; the nearest that is: {near}")
            grid.append(size // patch)
        if self.positions == "learned" and any(n > g for n, g in zip(grid, self.grid)):
            raise ValueError(f"grid: the learned positions end at {self.grid} tokens, the clip has {tuple(grid)}")
        return tuple(grid)

    def forward_flops(self, frames: int, height: int, width: int, text_length: int = 0) -> float:
        """Multiply-adds times two of one clip's forward pass: matrix products and attention, nothing else.

        For N tokens in T frames, width D, MLP width M and L text tokens of width E:

            a unit         QKV and output 8 N D^2, MLP 4 N D M (6 N D M if gated), the cross-attention's projections
                           4 (N + L) D^2; twice the first two for the factorised form, or 10 N D^2 more where its
                           temporal part is attention alone; `attention_flops`
            adaLN          12 T D^2 (for each block, if each has its own; then also 4 T D^2 for the output)
            the ends       2 N D (patch in + patch out), 2 L E D (and 2 L D^2 through two layers), 2 (256 D + D^2) for
                           each embedded number

        A training step without recomputation is three forwards.
        """
        t, h, w = self.token_grid(frames, height, width)
        tokens, d = t * h * w, self.dim
        alone = self.temporal == "attention_first"
        blocks = 1 if self.attention == "full" or alone else 2  # of a unit
        unit = blocks * tokens * (8 * d * d + (6 if self.mlp in GATED else 4) * d * self.hidden)
        unit += 10 * tokens * d * d if alone else 0
        unit += 4 * (tokens + text_length) * d * d if self.text_dim else 0
        modulation = t * d * d * (12 * self.depth * blocks + 4 if self.adaln == "per_block" else 12)
        ends = 2 * tokens * d * math.prod(self.patch) * (self.in_channels + self.channels)
        ends += 2 * text_length * d * (self.text_dim + (d if self.text_dim and self.text_projection == "mlp" else 0))
        ends += 2 * d * d if self.pooled_text else 0
        ends += 2 * (frames + len(self.scalars)) * (256 * d + d * d)
        attention = self.attention_flops(frames, height, width, text_length)
        return self.depth * unit + modulation + ends + attention

    def attention_flops(self, frames: int, height: int, width: int, text_length: int = 0) -> float:
        """The part of `forward_flops` that is scores and values: 4 D for each pair of a query and a key it sees."""
        t, h, w = self.token_grid(frames, height, width)
        tokens, space = t * h * w, h * w
        if self.attention == "full":
            seen = tokens * (t + 1) / (2 * t) if self.causal else tokens
        else:
            seen = space + ((t + 1) / 2 if self.causal else t)
        return self.depth * 4.0 * tokens * (seen + (text_length if self.text_dim else 0)) * self.dim
