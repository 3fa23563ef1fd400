"""The encoders of T5 v1.1 (1910.10683) and UMT5 (2304.09151): pre-RMS-norm blocks, positions only as a bias.

    softmax(Q K^T + b[bucket(j - i)]) V,   no scale, no linear bias anywhere

Buckets are of one distance each up to a quarter of their number on both sides, then grow geometrically up to
`max_distance`.  T5 has one table b for all layers (that of the first), UMT5 one for each.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vdm_jax.attention import Policy
from vdm_jax.models.encoders.blocks import Block, run_blocks
from vdm_jax.models.encoders.encoding import Encoding
from vdm_jax.nn.attention import SelfAttention
from vdm_jax.nn.linear import param
from vdm_jax.nn.mlp import MLP, check_activation
from vdm_jax.nn.norms import RMSNorm
from vdm_jax.nn.stack import check_remat, stack
from vdm_jax.sharding.rules import constrain

Array = jax.Array
_NORMAL = jax.nn.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class T5Config:
    """A T5-like encoder; the defaults are v1.1-XXL.

    Attributes:
      vocab_size: rows of the embedding.
      dim, depth, heads, head_dim, mlp_dim: of the blocks.
      mlp: `geglu_tanh` (v1.1 and UMT5), `relu` (the first T5), or another of `nn.mlp`.
      eps: of the norms.
      buckets, max_distance: of relative positions.
      bias_per_layer: whether each layer has a table of its own (UMT5).
      remat: see `nn.stack.REMAT_POLICIES`.

    Raises:
      ValueError: names the field and what is allowed.
    """

    vocab_size: int = 32_128
    dim: int = 4096
    depth: int = 24
    heads: int = 64
    head_dim: int = 64
    mlp_dim: int = 10_240
    mlp: str = "geglu_tanh"
    eps: float = 1e-6
    buckets: int = 32
    max_distance: int = 128
    bias_per_layer: bool = False
    remat: str = "none"

    def __post_init__(self):
        for name in ("vocab_size", "dim", "depth", "heads", "head_dim", "mlp_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be 1 or more")
        if self.buckets < 4 or self.buckets % 2:
            raise ValueError(f"buckets: {self.buckets} must be even and 4 or more")
        if self.max_distance <= self.buckets // 4:
            raise ValueError(f"max_distance: {self.max_distance} must be more than buckets / 4 = {self.buckets // 4}")
        check_activation(self.mlp)
        check_remat(self.remat)


def relative_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
    """`[query, key]` int32: the bucket of every distance in a sequence; keys behind the query come first."""
    distance = np.arange(length)[None, :] - np.arange(length)[:, None]
    side, exact = buckets // 2, buckets // 4
    away = np.abs(distance)
    # As published: in float32, where a distance on the edge of a bucket may fall to either side.
    ratio = np.log(np.maximum(away, 1).astype(np.float32) / np.float32(exact))
    wide = exact + (ratio / np.float32(math.log(max_distance / exact)) * np.float32(side - exact)).astype(np.int32)
    return (np.where(away < exact, away, np.minimum(wide, side - 1)) + side * (distance > 0)).astype(np.int32)


class _BiasedBlock(nnx.Module):
    """A block with the table of its own layer, if layers have one."""

    def __init__(self, cfg: T5Config, *, rngs: nnx.Rngs):
        attention = SelfAttention(
            cfg.dim, cfg.heads, head_dim=cfg.head_dim, qkv_bias=False, out_bias=False, scale=1.0, rngs=rngs
        )
        self.block = Block(
            RMSNorm((cfg.dim,), eps=cfg.eps, rngs=rngs),
            attention,
            RMSNorm((cfg.dim,), eps=cfg.eps, rngs=rngs),
            MLP(cfg.dim, cfg.mlp_dim, activation=cfg.mlp, bias=False, rngs=rngs),
        )
        self.bias = _table(cfg, rngs) if cfg.bias_per_layer else None

    def __call__(self, x: Array, mask: Array | None, buckets: np.ndarray, shared: Array | None) -> Array:
        bias = _bias(self.bias[...], buckets) if shared is None else shared
        return self.block(x, Policy(key_mask=mask, bias=bias))


def _table(cfg: T5Config, rngs: nnx.Rngs) -> nnx.Param:
    return param(rngs, _NORMAL, (cfg.buckets, cfg.heads), (None, "heads"))


def _bias(table: Array, buckets: np.ndarray) -> Array:
    """`[buckets, H]`, `[Nq, Nk]` -> `[1, H, Nq, Nk]`."""
    return jnp.moveaxis(table[buckets], -1, 0)[None]


class T5(nnx.Module):
    """Prompts to features.

    Args:
      config: sizes.
      rngs: `params` is used.
    """

    def __init__(self, config: T5Config, rngs: nnx.Rngs):
        self.config = config
        self.tokens = param(rngs, _NORMAL, (config.vocab_size, config.dim), ("vocab", "embed"))
        self.bias = None if config.bias_per_layer else _table(config, rngs)
        self.blocks = stack(lambda r: _BiasedBlock(config, rngs=r), config.depth, rngs)
        self.norm = RMSNorm((config.dim,), eps=config.eps, rngs=rngs)

    def __call__(
        self, text_ids: Array, text_mask: Array | None = None, *, skip: int = 0, dtype: jnp.dtype = jnp.float32
    ) -> Encoding:
        """Args:
          text_ids: `[B, L]` int32.
          text_mask: `[B, L]` bool, False at padding that is not to be seen (Wan, Latte; CogVideoX gives none).
          skip: blocks at the end that `hidden` is taken in front of.
          dtype: of the computation.

        Returns:
          See `Encoding`; there is nothing pooled.

        Raises:
          ValueError: fewer blocks than `skip`.
        """
        cfg = self.config
        buckets = relative_buckets(text_ids.shape[1], cfg.buckets, cfg.max_distance)
        shared = None if self.bias is None else _bias(self.bias[...], buckets)
        x = constrain(jnp.take(self.tokens[...].astype(dtype), text_ids, axis=0), "batch", None, None)
        body = lambda block, h: block(h, text_mask, buckets, shared)  # noqa: E731
        last, hidden = run_blocks(self.blocks, x, body, cfg.depth, skip, cfg.remat)
        return Encoding(self.norm(last), hidden)
