"""What a train step sends over the wires of a TPU, read from the program that its compiler makes of it.

No chip is needed; libtpu is an extra (`./tools/setup --tpu`).
"""

import collections
import functools
import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from vdm_jax.nn.linear import Linear
from vdm_jax.nn.mlp import MLP
from vdm_jax.nn.norms import LayerNorm
from vdm_jax.nn.stack import run_stack, stack
from vdm_jax.planning import hlo
from vdm_jax.planning.collectives import collectives
from vdm_jax.planning.targets import parse_target, target_mesh
from vdm_jax.sharding import MeshConfig, constrain
from vdm_jax.training.recipe import Stage, Update
from vdm_jax.training.state import plan_state
from vdm_jax.training.step import StepConfig, abstract_batch, make_train_step

pytest.importorskip("libtpu")

DIM, DEPTH, BATCH, TOKENS = 4096, 2, 64, 32  # a shard of a smaller weight is less than a tile, and all-reduced
MESHES = {
    "data_fsdp": ("v5e:2x4", {"data": 2, "fsdp": 4}),
    # All chips of the slice hold parts of every weight: gathered in one step, gradients would be all-reduced.
    "fsdp_context": ("v5e:4x4", {"data": 1, "fsdp": 4, "context": 4}),
}


class Block(nnx.Module):
    """A residual MLP over tokens, and what the whole clip adds to them: of that all context devices have the same."""

    def __init__(self, rngs):
        self.mlp = MLP(DIM, DIM, activation="gelu", rngs=rngs)
        self.read = Linear(DIM, DIM, axes=("condition", "embed_out"), rngs=rngs)

    def __call__(self, h, clip):
        return constrain(h + self.mlp(h) + self.read(clip)[:, None], "batch", "tokens", None)


class Network(nnx.Module):
    """Stacked and scanned blocks."""

    def __init__(self, rngs):
        self.into = Linear(DIM, DIM, axes=("embed", "embed_out"), rngs=rngs)
        self.norm = LayerNorm(DIM, rngs=rngs)
        self.blocks = stack(Block, DEPTH, rngs)

    def __call__(self, x):
        clip = constrain(x[:, 0], "batch", None)
        tokens = constrain(self.norm(self.into(x)), "batch", "tokens", None)
        return run_stack(self.blocks, tokens, lambda block, h: block(h, clip), "full")


def objective(networks, batch, rng):
    out = networks["backbone"](batch["x"].astype(jnp.bfloat16))
    return (out.astype(jnp.float32) ** 2).mean(), {}


@functools.cache
def traffic(name: str, accumulate: int):
    """Bytes that come out of each collective of a bfloat16 step, by kind, dtype and axes; and the parameters."""
    target, mesh = MESHES[name]
    mesh = target_mesh(parse_target(target), MeshConfig(**mesh))
    plan = plan_state(lambda rngs: {"backbone": Network(rngs)}, Stage("train", (Update("train", objective),), 10), mesh)
    step = make_train_step(plan, StepConfig(accumulate, "bfloat16"), 0)
    batch = abstract_batch(plan, {"x": ((BATCH, TOKENS, DIM), jnp.float32)})
    text = step.lower(plan.abstract, batch).compile().as_text()
    sent = collections.Counter()
    for one in collectives(hlo.parse(text), dict(mesh.shape)):
        sent[one.kind, one.dtype, one.axes] += one.count * one.out_bytes
    return sent, plan


def matrices(plan) -> int:
    """Bytes of all matrices in bfloat16; what else there is, norms and biases, is a thousandth of it."""
    return sum(2 * math.prod(leaf.shape) for leaf in jax.tree.leaves(plan.abstract.params) if leaf.size > 64 * DIM)


def to_sum(plan, name: str) -> int:
    """Bytes of matrices whose gradients fsdp sums; of what reads a whole clip, each context device has its part."""
    read = 2 * DEPTH * DIM * DIM
    return matrices(plan) - read + read // MESHES[name][1].get("context", 1)


@pytest.mark.parametrize("name", MESHES)
def test_weights_are_gathered_in_bfloat16(name):
    sent, plan = traffic(name, 1)
    gathered = {key: size for key, size in sent.items() if key[0] == "all-gather" and "fsdp" in key[2]}
    assert {dtype for _, dtype, _ in gathered} == {"bf16"}
    # Once forward and, as layers are computed again, once more backward; half the bytes of float32.
    assert matrices(plan) < sum(gathered.values()) < 2.2 * matrices(plan)


@pytest.mark.parametrize(("name", "accumulate"), [*((name, 1) for name in MESHES), ("data_fsdp", 2)])
def test_gradients_are_reduce_scattered(name, accumulate):
    sent, plan = traffic(name, accumulate)
    fsdp = MESHES[name][1]["fsdp"]
    scattered = sum(size for (kind, _, axes), size in sent.items() if kind == "reduce-scatter" and "fsdp" in axes)
    reduced = sum(size for (kind, _, axes), size in sent.items() if kind == "all-reduce" and "fsdp" in axes)
    assert fsdp * scattered == pytest.approx(accumulate * to_sum(plan, name), rel=0.02)
    assert reduced < 0.05 * matrices(plan)
    # What other axes still have to sum is the part of one fsdp shard.
    rest = sum(size for (kind, _, axes), size in sent.items() if kind == "all-reduce" and "fsdp" not in axes)
    assert rest < 1.1 * accumulate * matrices(plan) / fsdp
