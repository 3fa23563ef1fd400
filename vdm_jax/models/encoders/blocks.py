"""Pre-norm blocks in a scanned stack of which the last few may be left out.

x += SelfAttention(norm(x));   x += MLP(norm(x))
"""

from collections.abc import Callable

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from vdm_jax.attention import Policy
from vdm_jax.nn.attention import SelfAttention
from vdm_jax.nn.mlp import MLP
from vdm_jax.nn.stack import run_stack

Array = jax.Array


class Block(nnx.Module):
    """One block of any encoder; its parts are given to it."""

    def __init__(self, attention_norm: nnx.Module, attention: SelfAttention, mlp_norm: nnx.Module, mlp: MLP):
        self.attention_norm = attention_norm
        self.attention = attention
        self.mlp_norm = mlp_norm
        self.mlp = mlp

    def __call__(self, x: Array, policy: Policy) -> Array:
        h = checkpoint_name(self.attention_norm(x), "attention_in")
        x = x + self.attention(h, policy, partition="local")  # prompts and pictures are short, and not cut
        return x + checkpoint_name(self.mlp(self.mlp_norm(x)), "mlp_hidden")


def check_skip(skip: int, depth: int) -> None:
    """Raises ValueError unless `skip` blocks can be left out of `depth`."""
    if not 0 <= skip <= depth:
        raise ValueError(f"skip: {skip} is not a number of the encoder's {depth} blocks, 0 to {depth}")


def run_blocks(
    blocks: nnx.Module, x: Array, body: Callable[[nnx.Module, Array], Array], depth: int, skip: int, remat: str
) -> tuple[Array, Array]:
    """The result of all `depth` blocks, and of all but the last `skip`; arguments as in `run_stack`."""
    check_skip(skip, depth)
    if skip == 0:
        last = run_stack(blocks, x, body, remat)
        return last, last
    hidden = x if skip == depth else run_stack(_part(blocks, slice(depth - skip)), x, body, remat)
    return run_stack(_part(blocks, slice(depth - skip, None)), hidden, body, remat), hidden


def _part(blocks: nnx.Module, which: slice) -> nnx.Module:
    return jax.tree.map(lambda leaf: leaf[which], blocks)
