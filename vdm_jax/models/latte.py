"""Latte: a text-to-video DiT whose blocks look at the frames and at the tubes of a clip in turn (arXiv 2401.03048).

  x [B, T, H, W, C] -> tokens [B, T, S, D] + positions in the frame
    -> (space block, then time block) x depth, positions in time added before the first time block
    -> tokens -> [B, T, H, W, C'],   C' = C, or 2 C where the variance is learned too

The blocks are those of `models.dit`: one projection of the time for all of them (adaLN-single), text read by the space
blocks only and without a norm.  The time of each frame is its own; one time a clip is the published network.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from vdm_jax.models.dit.blocks import Context, Unit
from vdm_jax.models.dit.config import DiTConfig
from vdm_jax.models.dit.layout import TokenLayout
from vdm_jax.nn.embeddings import ScalarEmbedding, frame_table, time_table
from vdm_jax.nn.linear import Linear, param
from vdm_jax.nn.norms import layer_norm, modulate
from vdm_jax.nn.projection import TextProjection
from vdm_jax.nn.stack import run_stack, stack
from vdm_jax.sharding.rules import constrain
from vdm_jax.types import Condition, as_time, check_condition

Array = jax.Array
_ZEROS = jax.nn.initializers.zeros
_PATCHES = "b t (h ph) (w pw) c -> b t (h w) (ph pw c)"
_PIXELS = "b t (h w) (ph pw c) -> b t (h ph) (w pw) c"


@dataclasses.dataclass(frozen=True)
class LatteConfig:
    """A Latte network; the defaults are Latte-1.

    Attributes:
      channels: of the clip.
      learned_variance: predict the variance too, in as many channels again.
      patch: pixels of a latent that a token spans, up and across.
      dim, depth, heads: width, number of pairs of blocks, attention heads.
      text_dim: width of the text features.
      frames: of the longest clip.
      sample_size: height and width of the latents that positions in a frame are measured by; others are scaled to it.
      kernel: see `attention.KERNELS`.
      partition: see `models.dit.layout`.
      remat: see `nn.stack.REMAT_POLICIES`.

    Raises:
      ValueError: names the field, what is allowed and the nearest right spelling.
    """

    channels: int = 4
    learned_variance: bool = True
    patch: int = 2
    dim: int = 1152
    depth: int = 28
    heads: int = 16
    text_dim: int = 4096
    frames: int = 16
    sample_size: int = 64
    kernel: str = "auto"
    partition: str = "auto"
    remat: str = "none"

    def __post_init__(self):
        for name in ("text_dim", "frames", "sample_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be 1 or more")
        if self.dim % 4:
            raise ValueError(f"dim: {self.dim} must be a multiple of 4, for sines and cosines of two positions")
        if self.sample_size < self.patch:
            raise ValueError(f"sample_size: {self.sample_size} is smaller than a patch, {self.patch}")
        _ = self.trunk  # checks the rest

    @property
    def trunk(self) -> DiTConfig:
        """What its blocks are, and how many FLOPs they take."""
        return DiTConfig(
            channels=self.channels, patch=(1, self.patch, self.patch), dim=self.dim, depth=self.depth,
            heads=self.heads, attention="factorised", rope=False, qk_norm="none", text_dim=self.text_dim,
            text_projection="mlp", cross_norm=False, kernel=self.kernel, partition=self.partition, remat=self.remat,
        )  # fmt: skip

    @property
    def attention(self) -> str:
        return self.trunk.attention

    @property
    def head_dim(self) -> int:
        return self.trunk.head_dim

    @property
    def out_channels(self) -> int:
        """Channels of the output, those of the variance included."""
        return self.channels * (2 if self.learned_variance else 1)

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
        return frozenset({"tokens"})

    @property
    def may_read(self) -> frozenset[str]:
        """What it reads where it is given."""
        return self.reads

    def token_grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """The clip's size in tokens.

        Raises:
          ValueError: a size that the patch does not divide, or more frames than `frames`.
        """
        if frames > self.frames:
            raise ValueError(f"frames: {frames} is more than the model's {self.frames}")
        return self.trunk.token_grid(frames, height, width)

    def forward_flops(self, frames: int, height: int, width: int, text_length: int = 0) -> float:
        """Multiply-adds times two of one clip's forward pass: matrix products and attention, nothing else.

        That of the trunk, see `DiTConfig.forward_flops`, where the output may hold the variance.
        """
        t, h, w = self.token_grid(frames, height, width)
        variance = 2 * t * h * w * self.dim * self.patch**2 * (self.out_channels - self.channels)
        return self.trunk.forward_flops(frames, height, width, text_length) + variance

    def attention_flops(self, frames: int, height: int, width: int, text_length: int = 0) -> float:
        """The part of `forward_flops` that is scores and values."""
        return self.trunk.attention_flops(frames, height, width, text_length)


class Latte(nnx.Module):
    """See `LatteConfig`.

    Args:
      config: the architecture.
      rngs: `params` is used.
    """

    def __init__(self, config: LatteConfig, rngs: nnx.Rngs):
        cfg, d = config, config.dim
        self.config = config
        self.patch_in = Linear(cfg.patch**2 * cfg.channels, d, axes=("patch", "embed"), rngs=rngs)
        self.time = ScalarEmbedding(d, rngs=rngs)
        self.text_in = TextProjection(cfg.text_dim, d, rngs=rngs)
        self.modulation = Linear(d, (6, d), axes=("condition", None, "embed_out"), init=_ZEROS, rngs=rngs)
        self.units = stack(lambda r: Unit(cfg.trunk, rngs=r), cfg.depth, rngs)
        self.final_modulation = param(rngs, jax.nn.initializers.normal(d**-0.5), (2, d), (None, "embed"))
        self.patch_out = Linear(d, cfg.patch**2 * cfg.out_channels, axes=("embed", "patch"), init=_ZEROS, rngs=rngs)

    @property
    def reads(self) -> frozenset[str]:
        """Condition keys that this model reads."""
        return self.config.reads

    def __call__(self, x: Array, t: Array, cond: Condition | None = None) -> Array:
        """Predicts what the process asks of its network; arguments as in `with_variance`.

        Returns:
          `[B, T, H, W, C]` in the dtype of `x`.
        """
        return self.with_variance(x, t, cond)[..., : self.config.channels]

    def with_variance(self, x: Array, t: Array, cond: Condition | None = None) -> Array:
        """Predicts all that the network was trained to.

        Args:
          x: `[B, T, H, W, C]`, any float dtype; the network computes in it.
          t: `[B, T]` or `[B]`, what the network is told of the time (`process.network_time`), 0 to 1000.
          cond: `tokens [B, L, E]` or per frame `[B, T, L, E]`, and `tokens_mask` where some of them are padding.

        Returns:
          `[B, T, H, W, out_channels]` in the dtype of `x`: the prediction, and behind it the variance where it is
          learned, in [-1, 1] between the smallest and the largest (2102.09672).

        Raises:
          ValueError: unread or missing condition keys, sizes that the network does not take.
        """
        cfg, cond = self.config, dict(cond or {})
        check_condition(cond, cfg.may_read, "Latte", needs=self.reads)
        b, frames, height, width, _ = x.shape
        grid = cfg.token_grid(frames, height, width)
        tokens = cond["tokens"].astype(x.dtype)
        if tokens.ndim == 4 and tokens.shape[1] != frames:
            raise ValueError(f"condition: tokens are given for {tokens.shape[1]} frames, the clip has {frames}")
        e = constrain(self.time(as_time(t, b, frames), x.dtype), "batch", None, None)
        layout = TokenLayout.of("factorised", cfg.partition, frames, grid[1] * grid[2], cfg.heads)
        time, text, mask = jax.nn.silu(e), self.text_in(tokens), cond.get("tokens_mask")
        nowhere = {"full": None, "space": None, "time": None}
        ctx = Context(time, self.modulation(time), text, mask, nowhere, layout)

        patches = layout.enter(rearrange(x, _PATCHES, ph=cfg.patch, pw=cfg.patch))
        in_frame = jnp.asarray(self._in_frame(grid), x.dtype)
        h = self.patch_in(patches) + layout.pad(jnp.broadcast_to(in_frame, (frames, *in_frame.shape)))

        def unit(block: Unit, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            h, in_time = carry  # of the first unit; there is none for those behind it
            return layout.hold(block(h, ctx, in_time)), jnp.zeros_like(in_time)

        in_time = jnp.asarray(time_table(frames, cfg.dim), x.dtype)
        h, _ = run_stack(self.units, (layout.hold(h), in_time), unit, cfg.remat)
        rows = layout.rows(self.final_modulation[...].astype(x.dtype) + e[:, :, None], h)
        shift, scale = jnp.split(rows, 2, axis=2)  # [B, T, 1, D]
        patches = layout.leave(self.patch_out(modulate(layer_norm(h), shift, scale)))
        return rearrange(patches, _PIXELS, h=grid[1], w=grid[2], ph=cfg.patch, pw=cfg.patch)

    def _in_frame(self, grid: tuple[int, int, int]) -> np.ndarray:
        """`[S, D]`: places on a grid of `sample_size`, at most 64 pixels of a latent, stretched over the frame."""
        full = self.config.sample_size // self.config.patch / max(self.config.sample_size // 64, 1)
        return frame_table(grid[1:], (full, full), self.config.dim)
