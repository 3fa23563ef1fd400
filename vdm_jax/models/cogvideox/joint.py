"""Attention of text and clip to each other, in one sequence that need not be moved to be made.

    text [B, L, D], clip [B, T, S, D]   ->   one device:              [B, L + T S, D]
                                             S cut over R devices:    [B, T, R (S / R + l), D],   l = ceil(L / (T R))

Attention without positions does not ask for the order of its keys.  Where the mesh cuts the frames, the text is dealt
out: on every device each frame's share ends in l of its tokens, so that joining the two moves no token of the clip.
What is neither text nor clip there, is masked.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from vdm_jax.attention import Policy, attend
from vdm_jax.attention.layout import resize
from vdm_jax.attention.partition import CONTEXT
from vdm_jax.models.dit.layout import TokenLayout
from vdm_jax.nn.folding import fold
from vdm_jax.nn.linear import Linear
from vdm_jax.nn.norms import LayerNorm
from vdm_jax.nn.rotary import rotate
from vdm_jax.sharding.context import axis_size
from vdm_jax.sharding.exchange import padded

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class JointLayout:
    """How text and clip share a sequence.

    Attributes:
      clip: how the clip's tokens lie on the mesh.
      text: number of text tokens.
      devices: R of the module docstring.
    """

    clip: TokenLayout
    text: int
    devices: int

    @classmethod
    def of(cls, clip: TokenLayout, text: int) -> "JointLayout":
        """The layout for `text` tokens and a clip."""
        return cls(clip, text, axis_size(CONTEXT))

    @property
    def name(self) -> str:
        """That of the joined operands, see `attention.layout`."""
        return "BHND" if self.devices == 1 else "BHTSD"

    @property
    def dealt(self) -> int:
        """Text tokens at the end of each frame's share of a device."""
        return -(-self.text // (self.clip.frames * self.devices))

    def join(self, text: Array, clip: Array) -> Array:
        """`[B, H, L, c]` and `[B, H, T, S, c]` with the padding of S -> the sequence, in the layout `name`."""
        b, h, t, s, c = clip.shape
        if self.devices == 1:
            return jnp.concatenate([text, clip.reshape(b, h, t * s, c)], axis=2)
        text = resize(text, 2, t * self.devices * self.dealt).reshape(b, h, t, self.devices, self.dealt, c)
        both = jnp.concatenate([clip.reshape(b, h, t, self.devices, -1, c), text], axis=4)
        return both.reshape(b, h, t, -1, c)

    def split(self, joined: Array) -> tuple[Array, Array]:
        """The inverse of `join`."""
        b, h, c, t = *joined.shape[:2], joined.shape[-1], self.clip.frames
        if self.devices == 1:
            return joined[:, :, : self.text], joined[:, :, self.text :].reshape(b, h, t, -1, c)
        both = joined.reshape(b, h, t, self.devices, -1, c)
        clip, text = both[:, :, :, :, : -self.dealt], both[:, :, :, :, -self.dealt :]
        return text.reshape(b, h, -1, c)[:, :, : self.text], clip.reshape(b, h, t, -1, c)

    def key_mask(self, text_mask: Array | None, batch: int) -> Array | None:
        """What there is of the joined sequence, `[B, N]`; None if it is all there.

        Args:
          text_mask: `[B, L]` bool, True at text that is to be read; None: all of it.
          batch: B.
        """
        frames, space = self.clip.frames, self.clip.space
        width = padded(space, CONTEXT)
        if text_mask is None:
            if width == space and self.text == (self.dealt * frames * self.devices if self.devices > 1 else self.text):
                return None
            text_mask = jnp.ones((batch, self.text), bool)
        clip = jnp.broadcast_to(jnp.arange(width) < space, (batch, 1, frames, width))
        return self.join(text_mask[:, None, :, None], clip[..., None]).reshape(batch, -1)


class JointAttention(nnx.Module):
    """Text and clip through the same projections, with layer norms of every head's queries and keys."""

    def __init__(self, dim: int, heads: int, *, rngs: nnx.Rngs, kernel: str = "auto"):
        self.kernel = kernel
        head_dim = dim // heads
        self.qkv = Linear(dim, (heads, 3, head_dim), axes=("embed", "heads", None, "head_dim"), rngs=rngs)
        self.out = Linear(dim, dim, axes=("heads", "embed"), rngs=rngs)
        self.norm_q = LayerNorm(head_dim, rngs=rngs)
        self.norm_k = LayerNorm(head_dim, rngs=rngs)

    def __call__(
        self, text: Array, clip: Array, layout: JointLayout, mask: Array | None, rotary: Array | None
    ) -> tuple[Array, Array]:
        """Args:
          text: `[B, L, D]`.
          clip: `[B, T, S, D]`.
          layout: of the two.
          mask: of `JointLayout.key_mask`.
          rotary: `[T, S, 2, c / 2]`, of the clip.

        Returns:
          Two arrays like `text` and `clip`.
        """
        of_text, of_clip = self._project(text), self._project(clip)
        if rotary is not None:
            q, k, v = of_clip
            of_clip = rotate(q, rotary), rotate(k, rotary), v
        q, k, v = (layout.join(a, b) for a, b in zip(of_text, of_clip))
        where = {"layout": layout.name, "partition": layout.clip.within}
        out = attend(q, k, v, policy=Policy(key_mask=mask), kernel=self.kernel, **where)
        text_out, clip_out = (jnp.moveaxis(x, 1, -2) for x in layout.split(out))
        return self.out(text_out.reshape(text.shape)), self.out(clip_out.reshape(clip.shape))

    def _project(self, x: Array) -> tuple[Array, Array, Array]:
        """`[B, ..., D]` -> queries, keys and values `[B, H, ..., c]`."""
        qkv = self.qkv(x)  # [B, ..., H, 3, c]
        q, k, v = (qkv[..., i, :] for i in range(3))
        q, k = (norm(fold(y, 2)).reshape(y.shape) for norm, y in ((self.norm_q, q), (self.norm_k, k)))
        return tuple(jnp.moveaxis(y, -2, 1) for y in (q, k, v))
