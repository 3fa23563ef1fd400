"""Groups of layers that each read a text of their own: encoder, middle and decoder of a UNet, thirds of a DiT's depth.

    tokens [..., 3 L, D] = texts of encoder, middle and decoder side by side;   a layer reads the L of its group

Every cross-attention is swapped for one that knows its group.  What the groups read is put together outside, for every
step and frame anew (`sampling.router`).
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from vdm_jax.adapters.splice import at, find, swap
from vdm_jax.models.dit import DiT
from vdm_jax.models.unet import UNet
from vdm_jax.nn.attention import CrossAttention
from vdm_jax.nn.path_filter import Path

Array = jax.Array
GROUPS = ("encoder", "middle", "decoder")
_OF_UNET = {"down": "encoder", "mid": "middle", "up": "decoder"}


class RoutedAttention(CrossAttention):
    """Cross-attention that reads one of several texts; has the parameters of the layer that it stands for.

    Args:
      base: the layers of a stack.
      group: which text each of them reads, `[layers]` int32.
    """

    def __init__(self, base: CrossAttention, group: Array):
        self.q, self.kv, self.out, self.norm, self.kernel = base.q, base.kv, base.out, base.norm, base.kernel
        self.group = nnx.Variable(jnp.asarray(group, jnp.int32))

    def __call__(
        self, x: Array, context: Array, context_mask: Array | None = None, *, partition: str = "auto"
    ) -> Array:
        """See `CrossAttention`; context `[..., 3 L, E]` and its mask hold the texts of all groups."""
        own = _part(context, self.group[...], context.ndim - 2)
        mask = None if context_mask is None else _part(context_mask, self.group[...], context_mask.ndim - 1)
        return super().__call__(x, own, mask, partition=partition)


def route_text(network: nnx.Module) -> nnx.Module:
    """Swaps every cross-attention of a network for one that reads the text of its group, in place.

    Args:
      network: a `DiT` or a `UNet` with text.

    Returns:
      The network; its `tokens` are those of all `GROUPS` side by side now.

    Raises:
      ValueError: a network without text, or one in which all layers hear the text another way too.
    """
    if not isinstance(network, (DiT, UNet)):
        raise ValueError(f"router: the layers of {type(network).__name__} have no groups (those of DiT and UNet have)")
    if getattr(network.config, "pooled_text", False):
        raise ValueError(
            "router: pooled_text=True, so that one time embedding tells all layers of the DiT the text as well; only"
            " what cross-attention alone reads can differ between them (pooled_text=False)"
        )
    paths = find(network, CrossAttention)
    if not paths:
        raise ValueError(f"router: the {type(network).__name__} reads no text")
    for path in paths:
        group = _groups(network, path)
        swap(network, path, functools.partial(RoutedAttention, group=group))
    return network


def _groups(network: nnx.Module, path: Path) -> Array:
    """The number of the group of each layer in the stack at a path, `[layers]`."""
    depth = at(network, path).q.kernel.shape[0]
    if isinstance(network, UNet):
        return jnp.full(depth, GROUPS.index(_OF_UNET[path[0]]))
    return jnp.arange(depth) * len(GROUPS) // depth


def _part(texts: Array, group: Array, axis: int) -> Array:
    length = texts.shape[axis] // len(GROUPS)
    return jax.lax.dynamic_slice_in_dim(texts, group * length, length, axis)
