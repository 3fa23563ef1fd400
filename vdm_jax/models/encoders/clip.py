"""CLIP (2103.00020): one transformer for prompts and pictures, of OpenAI (quick GELU) and OpenCLIP (exact GELU).

  text:    x = tokens[ids] + positions;              causal blocks;  norm;  pooled at the end token;  projection
  vision:  x = norm([class, patches] + positions);   blocks;         pooled = norm(class token);      projection

Published pipelines read different parts of the result: Stable Diffusion and ModelScope `tokens`, AnimateDiff with
`clip_skip` the norm of `hidden`, Wan image-to-video `hidden` of the picture with skip=1, SVD `projected`.
"""

import dataclasses

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from vdm_jax.attention import CAUSAL, FULL, Policy, check_kernel
from vdm_jax.models.encoders.blocks import Block, run_blocks
from vdm_jax.models.encoders.encoding import Encoding
from vdm_jax.nn.attention import SelfAttention
from vdm_jax.nn.linear import Linear, param
from vdm_jax.nn.mlp import MLP, check_activation
from vdm_jax.nn.norms import LayerNorm
from vdm_jax.nn.stack import check_remat, stack
from vdm_jax.sharding.rules import constrain

Array = jax.Array
_NORMAL = jax.nn.initializers.normal(0.02)
HIGHEST = 2  # the end token's id in files of old, which is wrong there: pooled is then at the highest id


@dataclasses.dataclass(frozen=True)
class _TowerConfig:
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_dim: int = 3072
    mlp: str = "quick_gelu"
    eps: float = 1e-5
    projection: int = 0
    kernel: str = "auto"
    remat: str = "none"

    def __post_init__(self):
        for name in ("dim", "depth", "heads", "mlp_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be 1 or more")
        if self.dim % self.heads:
            raise ValueError(f"heads: {self.heads} must divide dim={self.dim}")
        if self.projection < 0:
            raise ValueError(f"projection: {self.projection} must be 0 (none) or more")
        check_activation(self.mlp)
        check_kernel(self.kernel)
        check_remat(self.remat)


@dataclasses.dataclass(frozen=True)
class CLIPTextConfig(_TowerConfig):
    """The text half; the defaults are L/14.

    Attributes:
      dim, depth, heads, mlp_dim: of the blocks.
      mlp: `quick_gelu` (OpenAI) or `gelu_exact` (OpenCLIP), or another of `nn.mlp`.
      eps: of the norms.
      projection: width of `projected`; 0 is a model without it.
      kernel: see `attention.KERNELS`.
      remat: see `nn.stack.REMAT_POLICIES`.
      vocab_size: rows of the embedding.
      length: tokens of the longest prompt, start and end included.
      end: id of the end token, at which a prompt is pooled; `HIGHEST` (2) pools at the highest id instead.

    Raises:
      ValueError: names the field and what is allowed.
    """

    vocab_size: int = 49_408
    length: int = 77
    end: int = HIGHEST

    def __post_init__(self):
        super().__post_init__()
        for name in ("vocab_size", "length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be 1 or more")


@dataclasses.dataclass(frozen=True)
class CLIPVisionConfig(_TowerConfig):
    """The picture half; `dim` ... `remat` as in `CLIPTextConfig`.

    Attributes:
      image_size: height and width in pixels.
      patch: height and width of a patch; must divide it.
      channels: of the picture.

    Raises:
      ValueError: names the field and what is allowed.
    """

    image_size: int = 224
    patch: int = 32
    channels: int = 3

    def __post_init__(self):
        super().__post_init__()
        for name in ("image_size", "patch", "channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be 1 or more")
        if self.image_size % self.patch:
            raise ValueError(f"patch: {self.patch} must divide image_size={self.image_size}")

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return (self.image_size // self.patch) ** 2 + 1


def _blocks(cfg: _TowerConfig, rngs: nnx.Rngs) -> nnx.Module:
    def make(r: nnx.Rngs) -> Block:
        return Block(
            LayerNorm(cfg.dim, eps=cfg.eps, rngs=r),
            SelfAttention(cfg.dim, cfg.heads, kernel=cfg.kernel, rngs=r),
            LayerNorm(cfg.dim, eps=cfg.eps, rngs=r),
            MLP(cfg.dim, cfg.mlp_dim, activation=cfg.mlp, rngs=r),
        )

    return stack(make, cfg.depth, rngs)


def _projection(cfg: _TowerConfig, rngs: nnx.Rngs) -> Linear | None:
    axes = ("embed", "embed_out")
    return Linear(cfg.dim, cfg.projection, axes=axes, bias=False, rngs=rngs) if cfg.projection else None


def _run(network: "CLIPText | CLIPVision", x: Array, policy: Policy, skip: int) -> tuple[Array, Array]:
    cfg = network.config
    x = constrain(x, "batch", None, None)
    return run_blocks(network.blocks, x, lambda block, h: block(h, policy), cfg.depth, skip, cfg.remat)


class CLIPText(nnx.Module):
    """Prompts to features.

    Args:
      config: sizes.
      rngs: `params` is used.
    """

    def __init__(self, config: CLIPTextConfig, rngs: nnx.Rngs):
        self.config = config
        self.tokens = param(rngs, _NORMAL, (config.vocab_size, config.dim), ("vocab", "embed"))
        self.positions = param(rngs, _NORMAL, (config.length, config.dim), ("text", "embed"))
        self.blocks = _blocks(config, rngs)
        self.norm = LayerNorm(config.dim, eps=config.eps, rngs=rngs)
        self.projection = _projection(config, rngs)

    def __call__(
        self, text_ids: Array, text_mask: Array | None = None, *, skip: int = 0, dtype: jnp.dtype = jnp.float32
    ) -> Encoding:
        """Args:
          text_ids: `[B, L]` int32, L at most `config.length`.
          text_mask: `[B, L]` bool, False at padding that is not to be seen; published pipelines give none.
          skip: blocks at the end that `hidden` is taken in front of.
          dtype: of the computation.

        Returns:
          See `Encoding`; `norm` of `hidden` is what pipelines with `clip_skip` use.

        Raises:
          ValueError: prompts longer than the positions there are, or fewer blocks than `skip`.
        """
        length = text_ids.shape[1]
        if length > self.config.length:
            raise ValueError(f"text_ids: {length} tokens, the encoder has positions for {self.config.length}")
        x = jnp.take(self.tokens[...].astype(dtype), text_ids, axis=0) + self.positions[...].astype(dtype)[:length]
        policy = CAUSAL if text_mask is None else Policy(causal=True, key_mask=text_mask)
        last, hidden = _run(self, x, policy, skip)
        tokens = self.norm(last)
        end = text_ids if self.config.end == HIGHEST else text_ids == self.config.end
        pooled = jnp.take_along_axis(tokens, jnp.argmax(end, axis=1)[:, None, None], axis=1)[:, 0]
        return Encoding(tokens, hidden, pooled, self.projection(pooled) if self.projection else None)


class CLIPVision(nnx.Module):
    """Pictures to features.

    Args:
      config: sizes.
      rngs: `params` is used.
    """

    def __init__(self, config: CLIPVisionConfig, rngs: nnx.Rngs):
        self.config = config
        inside = config.patch**2 * config.channels
        self.patch_in = Linear(inside, config.dim, axes=("patch", "embed"), bias=False, rngs=rngs)
        self.class_token = param(rngs, _NORMAL, (config.dim,), ("embed",))
        self.positions = param(rngs, _NORMAL, (config.tokens, config.dim), ("patch", "embed"))
        self.norm_in = LayerNorm(config.dim, eps=config.eps, rngs=rngs)
        self.blocks = _blocks(config, rngs)
        self.norm = LayerNorm(config.dim, eps=config.eps, rngs=rngs)
        self.projection = _projection(config, rngs)

    def __call__(self, image: Array, *, skip: int = 0) -> Encoding:
        """Args:
          image: `[B, H, W, C]`, resized and normalised (`image_processing`); its dtype is that of the computation.
          skip: blocks at the end that `hidden` is taken in front of.

        Returns:
          See `Encoding`; `tokens` are not normed, the first is the class token.

        Raises:
          ValueError: another size than the encoder's, or fewer blocks than `skip`.
        """
        cfg = self.config
        if image.shape[1:] != (cfg.image_size, cfg.image_size, cfg.channels):
            wanted = (cfg.image_size, cfg.image_size, cfg.channels)
            raise ValueError(f"image: shape {image.shape}, expected [B, H, W, C]={('B', *wanted)}")
        x = self.patch_in(rearrange(image, "b (h p) (w q) c -> b (h w) (p q c)", p=cfg.patch, q=cfg.patch))
        first = jnp.broadcast_to(self.class_token[...].astype(x.dtype), (len(x), 1, cfg.dim))
        x = jnp.concatenate([first, x], axis=1) + self.positions[...].astype(x.dtype)
        last, hidden = _run(self, self.norm_in(x), FULL, skip)
        pooled = self.norm(last[:, 0])
        return Encoding(last, hidden, pooled, self.projection(pooled) if self.projection else None)
