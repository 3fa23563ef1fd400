"""What partitions send, counted in the compiled program, against what the table of `attention.partition` says."""

import re

import jax
import jax.numpy as jnp
import pytest

from tests.attention.meshes import mesh_of
from vdm_jax.attention import Policy, attend
from vdm_jax.planning.collectives import collectives
from vdm_jax.planning.hlo import parse
from vdm_jax.sharding import LogicalRules, activation_sharding

R, B, H, N, D = 8, 2, 8, 64, 128
SHARD = B * H * N * D // R  # numbers of one operand on one device
KINDS = {
    "ulysses": {"all-to-all"},
    "ring": {"collective-permute"},
    "hybrid": {"all-to-all", "collective-permute"},
}


def lowered(partition, policy, dtype, direction):
    """The forward pass, or the forward and the backward pass."""
    mesh = mesh_of(context=R)
    x = jax.ShapeDtypeStruct((B, N, H, D), dtype, sharding=jax.NamedSharding(mesh, jax.P(None, "context")))

    def run(q, k, v, d_out):
        with activation_sharding(mesh, LogicalRules()):
            out, pull = jax.vjp(lambda q, k, v: attend(q, k, v, partition=partition, policy=policy), q, k, v)
            return out if direction == "forward" else (out, pull(d_out))

    return mesh, jax.jit(run).lower(x, x, x, x)


def sent(partition, policy, dtype, direction):
    """Bytes a device sends by kind of collective."""
    mesh, program = lowered(partition, policy, dtype, direction)
    totals = {}
    for c in collectives(parse(program.compile().as_text()), mesh.shape):
        assert c.axes == ("context",)
        totals[c.kind] = totals.get(c.kind, 0.0) + c.count * c.wire_bytes
    return totals


def least(partition, zigzag, size, direction):
    """Bytes a device must send: the table's, with dO and dq, dk, dv as large as their operands."""
    ulysses = {"ulysses": R, "ring": 1, "hybrid": R // 2}[partition]
    ring = R // ulysses
    forward = 4 * (ulysses - 1) / ulysses + 2 * (ring - 1)
    backward = 4 * (ulysses - 1) / ulysses + 4 * (ring - 1)
    if zigzag and ring > 1:
        moving = [min(c, 2 * ring - 1 - c) != c // 2 for c in range(2 * ring)]  # chunks whose owner is another
        forward, backward = (n + 4 * sum(moving) / len(moving) for n in (forward, backward))
    return SHARD * size * (forward if direction == "forward" else forward + backward)


@pytest.mark.parametrize("direction", ["forward", "both"])
@pytest.mark.parametrize("policy", [Policy(), Policy(causal=True)], ids=["full", "causal"])
@pytest.mark.parametrize("partition", KINDS)
def test_no_more_than_the_analytic_minimum(partition, policy, direction):
    got = sent(partition, policy, jnp.float32, direction)
    assert set(got) == KINDS[partition]
    want = least(partition, policy.causal, 4, direction)
    assert sum(got.values()) <= 1.05 * want
    if direction == "forward":
        assert sum(got.values()) >= 0.999 * want  # so the count does see all that is sent


@pytest.mark.parametrize("partition", KINDS)
def test_operands_are_sent_in_their_own_dtype(partition):
    """As the program says it before XLA, whose CPU backend makes float32 of every bfloat16 that is sent."""
    wide = {}
    for direction in ("forward", "both"):
        text = lowered(partition, Policy(causal=True), jnp.bfloat16, direction)[1].as_text()
        ops = re.findall(r"stablehlo\.(?:all_to_all|collective_permute).*?-> tensor<([\dx]*)x(\w+)>", text, re.DOTALL)
        assert {dtype for shape, dtype in ops if shape.endswith(f"x{D}")} >= {"bf16"}
        wide[direction] = sum(dtype == "f32" for shape, dtype in ops if shape.endswith(f"x{D}"))
    assert wide["forward"] == 0
    # Only the travelling gradient of the queries is summed in float32 as it goes; it is sent from three places at most.
    assert wide["both"] <= {"ulysses": 0, "ring": 3, "hybrid": 1}[partition]


def test_groups_send_nothing():
    mesh = mesh_of(context=R)
    x = jax.ShapeDtypeStruct((B, R, N, H, 4), jnp.float32, sharding=jax.NamedSharding(mesh, jax.P(None, "context")))

    def run(q, k, v):
        with activation_sharding(mesh, LogicalRules()):
            return jax.grad(lambda *x: attend(*x, layout="BGNHD").sum(), argnums=(0, 1, 2))(q, k, v)

    assert not collectives(parse(jax.jit(run).lower(x, x, x).compile().as_text()), mesh.shape)
