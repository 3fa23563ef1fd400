"""Pictures that a text-to-video UNet reads beside its text (IP-Adapter, 2308.06721): decoupled cross-attention.

    A(q, k_text, v_text) + s A(q, k_image, v_image),   one query, the last projection shared

k_image and v_image of every cross-attention are the adapter's; so is a resampler from the features of a picture
(`image` of the condition, CLIP's penultimate layer as a rule) to n tokens.  A new adapter's v_image is zero, so that
the network starts as it was; published training starts both at a copy of the text's, which it is not then.

    image_tokens/...                                                             the resampler
    down/0/layers/0/attention/units/space/second/image_tokens/kernel             [layers, text dim, heads, 2, c]
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vdm_jax.adapters.splice import find, swap
from vdm_jax.attention import Policy, attend
from vdm_jax.models.unet import UNet
from vdm_jax.nn.attention import CrossAttention
from vdm_jax.nn.linear import Initializer, Linear
from vdm_jax.nn.resampler import Resampler
from vdm_jax.nn.stack import stack
from vdm_jax.types import Condition

Array = jax.Array
TAG = "image_tokens"


@dataclasses.dataclass(frozen=True)
class ImageTokensConfig:
    """Image tokens in every cross-attention of a UNet.

    Attributes:
      tokens: n, that a picture becomes.
      image_dim: width of its features.
      features: how many it has (those of CLIP's ViT-H/14: 16 x 16 patches and one of the whole).
      dim, heads, depth: of the resampler; depth 0 is none, then features are the tokens, as wide as the text.
      scale: s.
    """

    tag: ClassVar[str] = TAG

    tokens: int = 16
    image_dim: int = 1280
    features: int = 257
    dim: int = 768
    heads: int = 12
    depth: int = 4
    scale: float = 1.0

    def __post_init__(self):
        for name, least in (("tokens", 1), ("image_dim", 1), ("features", 1), ("dim", 1), ("heads", 1), ("depth", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)!r} must be {least} or more")
        if self.dim % self.heads:
            raise ValueError(f"heads: {self.heads} must divide dim={self.dim}")

    def put_into(self, network: nnx.Module, rngs: nnx.Rngs) -> nnx.Module:
        """The adapted network; what was given is of no use by itself any more.

        Raises:
          ValueError: it is no plain UNet, or its text is not as wide as tokens that come ready.
        """
        if type(network) is not UNet:
            what = type(network).__name__
            raise ValueError(f"adapter: {what} cannot read image tokens (a UNet can, once)")
        if not self.depth and self.image_dim != network.config.text_dim:
            wide = network.config.text_dim
            raise ValueError(
                f"image_dim: {self.image_dim} must be text_dim={wide}, as no resampler changes it (depth 0)"
            )
        for path in find(network, CrossAttention):
            swap(network, path, lambda layer: ImageAttention(layer, self, rngs))
        return ImageUNet(network, self, rngs)

    def begin(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of a new adapter beside weights that were put in after it: nothing of it is a copy."""
        return dict(params)

    def given(self, frames: int, height: int, width: int) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Features of a picture, or tokens that come ready."""
        return {"image": ((self.features if self.depth else self.tokens, self.image_dim), np.float32)}


class ImageAttention(CrossAttention):
    """Cross-attention that reads n image tokens behind the text, apart from it.

    Args:
      base: the layer, or a stack of them.
      config: n and s.
      rngs: `params` is used.
    """

    def __init__(self, base: CrossAttention, config: ImageTokensConfig, rngs: nnx.Rngs):
        self.q, self.kv, self.out, self.norm, self.kernel = base.q, base.kv, base.out, base.norm, base.kernel
        self.tokens, self.strength = config.tokens, config.scale
        *layers, text_dim, heads, _, head_dim = base.kv.kernel.shape

        def make(rngs: nnx.Rngs) -> Linear:
            axes, out = ("condition", "heads", None, "head_dim"), (heads, 2, head_dim)
            return Linear(text_dim, out, axes=axes, bias=False, init=_silent(text_dim, heads * head_dim), rngs=rngs)

        self.image_tokens = stack(make, layers[0], rngs) if layers else make(rngs)

    def __call__(
        self, x: Array, context: Array, context_mask: Array | None = None, *, partition: str = "auto"
    ) -> Array:
        """See `CrossAttention`; context `[..., L + n, E]`, and so its mask, which counts for the text only."""
        text, image = context[..., : -self.tokens, :], context[..., -self.tokens :, :]
        mask = None if context_mask is None else context_mask[..., : -self.tokens].reshape(-1, text.shape[-2])
        q = self.q(x)
        out = self._read(q, self.kv(text), mask, partition)
        out = out + self.strength * self._read(q, self.image_tokens(image), None, partition)
        return self.out(out.reshape(x.shape))

    def _read(self, q: Array, kv: Array, mask: Array | None, partition: str) -> Array:
        """Queries `[B, (G,) N, H, c]`; keys and values of each group `[B, G, L, H, 2, c]`, or of all."""
        kv = kv[:, None] if kv.ndim == q.ndim else kv
        q, k = self.norm(q, kv[..., 0, :])
        where = {"kernel": self.kernel, "partition": partition, "layout": "BNHD" if q.ndim == 4 else "BGNHD"}
        return attend(q, k, kv[..., 1, :], policy=Policy(key_mask=mask), **where)


class ImageUNet(UNet):
    """A UNet of which every cross-attention is an `ImageAttention`; has the parameters of the UNet that it stands for.

    The condition needs `image`: `[B, L, image_dim]`, or without a resampler `[B, n, text_dim]`.
    """

    def __init__(self, base: UNet, config: ImageTokensConfig, rngs: nnx.Rngs):
        for name, value in vars(base).items():
            if not name.startswith("_"):
                setattr(self, name, value)
        self.picture = config
        sizes = {"tokens": config.tokens, "dim": config.dim, "heads": config.heads, "depth": config.depth}
        dims = (config.image_dim, base.config.text_dim)
        self.image_tokens = Resampler(*dims, **sizes, rngs=rngs) if config.depth else None

    @property
    def reads(self) -> frozenset[str]:
        """Condition keys that this model reads."""
        return self.config.reads | {"image"}

    @property
    def may_read(self) -> frozenset[str]:
        """What it reads where it is given."""
        return self.reads

    def context(self, frames: int, batch: int, t: Array, cond: Condition, dtype: jnp.dtype):
        """See `Half.context`; text and image tokens lie one behind the other.

        Raises:
          ValueError: also features of another width, or tokens of another number than the adapter's.
        """
        ctx, features = super().context(frames, batch, t, cond, dtype), cond["image"].astype(dtype)
        config = self.picture
        if features.shape[-1] != config.image_dim:
            raise ValueError(f"condition: image has features of width {features.shape[-1]}, not {config.image_dim}")
        tokens = features if self.image_tokens is None else self.image_tokens(features)
        if tokens.shape[-2] != config.tokens:
            raise ValueError(f"condition: image has {tokens.shape[-2]} tokens, the adapter reads {config.tokens}")
        tokens = tokens if ctx.text.ndim == 3 else tokens[:, None]
        tokens = jnp.broadcast_to(tokens, (*ctx.text.shape[:-2], *tokens.shape[-2:]))
        mask = ctx.text_mask
        if mask is not None:
            mask = jnp.concatenate([mask, jnp.ones((*mask.shape[:-1], config.tokens), bool)], axis=-1)
        return dataclasses.replace(ctx, text=jnp.concatenate([ctx.text, tokens], axis=-2), text_mask=mask)


def _silent(inputs: int, outputs: int) -> Initializer:
    """Keys drawn (Xavier-uniform), values zero: `[in, heads, 2, c]`."""
    limit = (6.0 / (inputs + outputs)) ** 0.5

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        drawn = jax.random.uniform(key, shape, dtype, -limit, limit)
        return drawn.at[..., 1, :].set(0.0)

    return init
