"""Attention of every frame to one frame of its clip, in the spatial self-attention of a network of clips.

    q_i, k_i, v_i of frame i;  j the chosen frame

    KeysOfFrame         A(q_i, k_j, v_j)                          instead of its own (AnimateZero, 2312.03793)
    KeysBesideFrame     A(q_i, [k_i, k_j], [v_i, v_j])            beside its own (LVCD, 2409.12960)
    FirstFrameQuery     A(q_i, k_i, v_i) W_O + A(q'_i, k_j, v_j) W_O'     a branch of its own (I2V-Adapter, 2312.16693)

The first two have no parameters.  The third has q' and W_O' alone: q' begins as a copy of q and W_O' at zero, so the
network starts as it was; its keys and values are those of the frozen layer.  They stand beside that layer's,

    down/0/layers/0/attention/units/space/attention/first_frame/q/kernel        [layers, in, heads, c]
    down/0/layers/0/attention/units/space/attention/first_frame/out/kernel      [layers, heads c, in]

and are what trains under the pattern `first_frame` (`nn.path_filter`).  Where weights of the base are put into an
adapted network afterwards, `copied` makes the copy again.  What comes out at frame i depends on frames i and j alone.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from vdm_jax.adapters.splice import find, swap
from vdm_jax.attention import FULL, Policy, attend
from vdm_jax.models.dit import DiT
from vdm_jax.models.dit.blocks import Block as DiTBlock
from vdm_jax.models.unet import UNet
from vdm_jax.models.unet.layers import SpatialTransformer
from vdm_jax.nn.attention import LAYOUTS, SelfAttention
from vdm_jax.nn.linear import Linear
from vdm_jax.nn.path_filter import Path
from vdm_jax.nn.rotary import rotate
from vdm_jax.nn.stack import stack

Array = jax.Array
TAG = "first_frame"
_LAYOUT = LAYOUTS["GN"]
_GROUPS, _TOKENS = _LAYOUT.index("G"), _LAYOUT.index("N")


class _FrameAttention(SelfAttention):
    """Self-attention of frames that knows one of them; has the parameters of the layer that it stands for.

    Args:
      base: the layer.
      frame: j.
    """

    def __init__(self, base: SelfAttention, frame: int = 0):
        self.qkv, self.out, self.norm = base.qkv, base.out, base.norm
        self.kernel, self.scale = base.kernel, base.scale
        self.frame = frame

    def __call__(
        self,
        x: Array,
        policy: Policy = FULL,
        rotary: Array | None = None,
        *,
        tokens: str = "GN",
        partition: str = "auto",
        length: int | None = None,
    ) -> Array:
        """Args:
          x: `[B, T, N, D]`, the N tokens of T frames.
          policy: everything must be seen.
          rotary: `[N, 2, c / 2]`.
          tokens: "GN".
          partition, length: see `attend`.

        Returns:
          An array like `x`.

        Raises:
          ValueError: fewer frames than the chosen one needs.
        """
        assert tokens == "GN", "frames are looked at each by itself"
        assert policy == FULL, "frames are looked at whole"
        if self.frame >= x.shape[1]:
            raise ValueError(f"frame: {self.frame} is not in a clip of {x.shape[1]} frames (0 to {x.shape[1] - 1})")
        q, k, v = self._project(x, _LAYOUT)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        return self._attend(x, q, k, v, rotary, {"partition": partition, "length": length})

    @abc.abstractmethod
    def _attend(self, x: Array, q: Array, k: Array, v: Array, rotary: Array | None, where: dict) -> Array:
        """From queries, keys and values `[B, T, H, N, c]` to what the layer gives."""

    def _look(self, q: Array, k: Array, v: Array, policy: Policy, where: dict) -> Array:
        return attend(q, k, v, policy=policy, kernel=self.kernel, scale=self.scale, layout=_LAYOUT, **where)

    def _of_frame(self, y: Array) -> Array:
        """What all groups of queries share, `[B, 1, H, N, c]`."""
        return jax.lax.slice_in_dim(y, self.frame, self.frame + 1, axis=_GROUPS)


class KeysOfFrame(_FrameAttention):
    """Every frame reads the chosen one instead of itself."""

    def _attend(self, x, q, k, v, rotary, where):
        return self._merge(self._look(q, self._of_frame(k), self._of_frame(v), FULL, where), x, _LAYOUT)


class KeysBesideFrame(_FrameAttention):
    """Every frame reads itself and the chosen one, in one softmax; the chosen one itself counts twice there."""

    def _attend(self, x, q, k, v, rotary, where):
        length, padded = where["length"], k.shape[_TOKENS]
        k, v = (jnp.concatenate([y, jnp.broadcast_to(self._of_frame(y), y.shape)], axis=_TOKENS) for y in (k, v))
        policy = FULL
        if length is not None and length < padded:  # padding stands behind both halves
            there = jnp.tile(jnp.arange(padded) < length, 2)
            policy = Policy(key_mask=jnp.broadcast_to(there, (x.shape[0] * x.shape[1], 2 * padded)))
        return self._merge(self._look(q, k, v, policy, {**where, "length": None}), x, _LAYOUT)


class Branch(nnx.Module):
    """The parameters of an adapter's own query."""

    def __init__(self, dim: int, heads: int, head_dim: int, *, bias: bool, out_bias: bool, rngs: nnx.Rngs):
        zeros = jax.nn.initializers.zeros
        self.q = Linear(dim, (heads, head_dim), axes=("embed", "heads", "head_dim"), bias=bias, rngs=rngs)
        axes = ("heads", "embed")
        self.out = Linear(heads * head_dim, dim, axes=axes, bias=out_bias, init=zeros, rngs=rngs)


class FirstFrameQuery(_FrameAttention):
    """Self-attention with a branch in which every frame asks the chosen one with a query of its own.

    Args:
      base: the layer, or a stack of them.
      rngs: `params` is used.
      frame: j.
    """

    def __init__(self, base: SelfAttention, rngs: nnx.Rngs, frame: int = 0):
        super().__init__(base, frame)
        *layers, dim, heads, _, head_dim = base.qkv.kernel.shape
        bias, out_bias = base.qkv.bias is not None, base.out.bias is not None

        def make(rngs: nnx.Rngs) -> Branch:
            return Branch(dim, heads, head_dim, bias=bias, out_bias=out_bias, rngs=rngs)

        self.first_frame = stack(make, layers[0], rngs) if layers else make(rngs)
        self.first_frame.q.kernel[...] = base.qkv.kernel[..., 0, :]
        if bias:
            self.first_frame.q.bias[...] = base.qkv.bias[..., 0, :]

    def _attend(self, x, q, k, v, rotary, where):
        own = self.first_frame.q(x)
        own = own if self.norm.q is None else self.norm.q(own)
        own = jnp.moveaxis(own, -2, _LAYOUT.index("H"))
        own = own if rotary is None else rotate(own, rotary)
        seen = self._look(own, self._of_frame(k), self._of_frame(v), FULL, where)
        seen = jnp.moveaxis(seen, _LAYOUT.index("H"), -2).reshape(*x.shape[:-1], -1)
        return self._merge(self._look(q, k, v, FULL, where), x, _LAYOUT) + self.first_frame.out(seen)


@dataclasses.dataclass(frozen=True)
class FirstFrameConfig:
    """A `FirstFrameQuery` in every spatial self-attention.

    Attributes:
      frame: which one is asked.
    """

    tag: ClassVar[str] = TAG

    frame: int = 0

    def __post_init__(self):
        if self.frame < 0:
            raise ValueError(f"frame: {self.frame!r} must be 0 or more")

    def put_into(self, network: nnx.Module, rngs: nnx.Rngs) -> nnx.Module:
        """The adapted network, which is the one that was given; raises ValueError as `each_spatial` does."""
        return each_spatial(network, lambda layer: FirstFrameQuery(layer, rngs, self.frame))

    def begin(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of a new adapter beside weights that were put in after it: see `copied`."""
        return copied(params)

    def given(self, frames: int, height: int, width: int) -> dict[str, tuple[tuple[int, ...], Any]]:
        """It reads the clip alone; raises ValueError for one without the frame, or with no other."""
        if self.frame >= frames:
            raise ValueError(f"frame: {self.frame} is not in a clip of {frames} frames (0 to {frames - 1})")
        if frames < 2:
            raise ValueError("frame: is all there is of a clip of one frame; nothing is left to generate")
        return {}


def each_spatial(network: nnx.Module, make: Callable[[SelfAttention], SelfAttention]) -> nnx.Module:
    """Swaps the spatial self-attention of a network, in place.

    Args:
      network: a `UNet`, or a factorised `DiT`.
      make: a layer (or stack of layers) -> what stands for it.

    Returns:
      The network.

    Raises:
      ValueError: it has no self-attention over the tokens of each frame.
    """
    paths = _spatial(network)
    if not paths:
        what = type(network).__name__
        raise ValueError(f"adapter: the {what} has no spatial self-attention (a UNet with depth, a factorised DiT)")
    for path in paths:
        swap(network, path, make)
    return network


def _spatial(network: nnx.Module) -> list[Path]:
    match network:
        case UNet():
            return [(*path, "units", "space", "attention") for path in find(network, SpatialTransformer)]
        case DiT():
            return [(*path, "attention") for path in find(network, DiTBlock) if path[-1] == "spatial"]
    return []


def copied(params: Mapping[str, Any]) -> dict[str, Any]:
    """The same parameters with every q' a copy of its layer's q.

    Args:
      params: nested dict of an adapted network or of several, of arrays of numpy or jax.
    """
    flat = flatten_dict(params)
    for path in flat:
        if path[-3:-1] == (TAG, "q"):
            flat[path] = flat[*path[:-3], "qkv", path[-1]][..., 0, :]
    return unflatten_dict(flat)
