"""Stacked blocks: one compiled body for any depth, with named remat policies.

Parameters of all blocks are held with a leading `layers` dim and the forward pass is a `lax.scan`, so compile
time does not grow with depth.  Blocks mark what is worth keeping for the backward pass with `checkpoint_name`;
a policy is a choice among those names.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from vdm_jax.errors import did_you_mean
from vdm_jax.nn import taps
from vdm_jax.sharding.context import target_platform
from vdm_jax.sharding.gather import gathered

Array = jax.Array

# Names that blocks and kernels give to their intermediates.
ATTENTION_NAMES = ("attention_out", "attention_lse")  # keeping these two spares the backward pass all of attention
HIDDEN_NAMES = ("attention_in", "mlp_hidden")
# What to send to the host: a block's input, and what would have to be exchanged between devices again.
HOST_NAMES = ("block_in", "attention_out", "attention_exchanged")

_save = jax.checkpoint_policies.save_only_these_names

# Policy -> what the forward pass keeps beside each block's input.  `none` keeps everything, `offload` on the host.
REMAT_POLICIES: dict[str, Callable | None] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "attention": _save(*ATTENTION_NAMES),
    "attention_mlp": _save(*ATTENTION_NAMES, *HIDDEN_NAMES),
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=list(ATTENTION_NAMES[1:]),
        names_which_can_be_offloaded=list(HOST_NAMES),
        offload_src="device",
        offload_dst="pinned_host",
    ),
}


def check_remat(policy: str) -> None:
    """Raises ValueError unless `policy` is one of `REMAT_POLICIES`."""
    if policy not in REMAT_POLICIES:
        raise ValueError(f"remat: {did_you_mean(policy, REMAT_POLICIES)}")


def stack(make_block: Callable[[nnx.Rngs], nnx.Module], depth: int, rngs: nnx.Rngs) -> nnx.Module:
    """Builds `depth` blocks as one module whose parameters have a leading `layers` dim."""
    make = nnx.vmap(nnx.transform_metadata(make_block, partition="layers"))  # so written, also of use in tree mode
    return make(rngs.split(depth))


def run_stack(blocks: nnx.Module, x: Array, body: Callable[[nnx.Module, Array], Array], remat: str = "none") -> Array:
    """`x -> body(block_L, ... body(block_1, x))`, scanned.

    Args:
      blocks: the result of `stack`.
      x: what is carried from block to block (any pytree of fixed shapes).
      body: one block's work.
      remat: a name of `REMAT_POLICIES`.
    """
    return run_stack_with(blocks, x, None, lambda block, carry, _: (body(block, carry), None), remat)[0]


def run_stack_with(
    blocks: nnx.Module, x: Array, own: Any, body: Callable[[nnx.Module, Array, Any], tuple[Array, Any]], remat: str
) -> tuple[Array, Any]:
    """The same where each block has something of its own that it reads and changes: a cache.

    Args:
      blocks, x, remat: as in `run_stack`.
      own: a pytree whose leaves have the leading `layers` dim.
      body: `(block, x, own of the block) -> (x, own of the block)`.

    Returns:
      `x` behind the last block, and what the blocks have now, stacked.
    """

    def step(carry, block_own_given):
        block, mine, given = block_own_given
        with taps.inside(given) as seen:
            carry, mine = body(gathered(block), checkpoint_name(carry, "block_in"), mine)
        return carry, (mine, seen)

    if remat != "none":
        # Inside a scan the compiler cannot merge the recomputation with the forward pass, so no barrier is needed.
        step = jax.checkpoint(step, policy=REMAT_POLICIES[remat], prevent_cse=False)
    x, (own, seen) = jax.lax.scan(step, x, (blocks, own, taps.given_to(blocks)), unroll=_unroll(blocks, remat))
    taps.report(seen)
    return x, own


def _unroll(blocks: nnx.Module, remat: str) -> int:
    """On a CPU, shallow stacks run as straight code: writing every block's residuals into stacked arrays and
    reading them back costs 10 % of a training step there (64 tokens x 64 clips, 4 blocks)."""
    depth = jax.tree.leaves(blocks)[0].shape[0]
    return depth if target_platform() == "cpu" and remat == "none" and depth <= 8 else 1
