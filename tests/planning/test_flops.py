"""Formula, trace and compiler count the same."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.experimental import pallas as pl
from jax.sharding import AbstractMesh, PartitionSpec

from tests.planning.small_run import small_config
from vdm_jax.models.dit import DiT, DiTConfig
from vdm_jax.models.text import TextConfig, TextEncoder
from vdm_jax.planning.compile import trace_step
from vdm_jax.planning.flops import Sent, count, model_flops, text_flops
from vdm_jax.planning.targets import parse_target

WIDE = {"patch": (1, 2, 2), "dim": 1024, "depth": 1, "heads": 8, "kernel": "reference", "qk_norm": "none"}


def compiled_flops(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


def traced(function, *arguments):
    return count(jax.make_jaxpr(function)(*arguments))


@pytest.mark.parametrize("form", ["full", "factorised"])
def test_the_formula_is_the_compilers_count_of_an_unscanned_model(form):
    """To 1 %; the compiler counts norms, softmax and activations too, which are that small at this width."""
    model = nnx.eval_shape(lambda: DiT(DiTConfig(**WIDE, attention=form, text_dim=512, mlp="relu2"), nnx.Rngs(0)))
    graphdef, state = nnx.split(model)
    x = jax.ShapeDtypeStruct((1, 2, 32, 32, 3), jnp.float32)
    text = jax.ShapeDtypeStruct((1, 16, 512), jnp.float32)
    flops = compiled_flops(
        lambda state, x, text: nnx.merge(graphdef, state)(x, jnp.zeros(1), {"tokens": text}), state, x, text
    )
    assert model.config.forward_flops(2, 32, 32, 16) == pytest.approx(flops, rel=0.01)


def test_backward_is_twice_forward():
    model = nnx.eval_shape(lambda: DiT(DiTConfig(**WIDE), nnx.Rngs(0)))
    graphdef, state = nnx.split(model)
    x = jax.ShapeDtypeStruct((1, 2, 16, 16, 3), jnp.float32)

    def loss(state, x):
        return jnp.sum(nnx.merge(graphdef, state)(x, jnp.zeros(1)) ** 2)

    program = traced(jax.grad(loss), state, x)
    assert program.flops == pytest.approx(3 * model.config.forward_flops(2, 16, 16), rel=0.01)


def test_the_text_encoder():
    config = TextConfig(length=16, dim=256, depth=3, heads=4)
    graphdef, state = nnx.split(nnx.eval_shape(lambda: TextEncoder(config, 64, nnx.Rngs(0))))
    ids, mask = jnp.zeros((1, 16), jnp.int32), jnp.ones((1, 16), bool)
    program = traced(lambda state: nnx.merge(graphdef, state)(ids, mask)["tokens"], state)
    assert program.flops == pytest.approx(text_flops(config))


def test_what_remat_computes_again_is_counted_apart():
    target = parse_target("h100:8")
    none, full = (trace_step(small_config(model={"remat": remat, "depth": 9}), target) for remat in ("none", "full"))
    assert model_flops(none.run) == model_flops(full.run)
    model = model_flops(full.run)
    forward = model.total / 3
    again = full.program.flops - none.program.flops
    assert 0.6 * forward < again < 1.05 * forward  # all of the blocks but for what the backward pass does not need
    assert none.program.flops > 0.97 * model.total
    assert model.attention < model.total


def test_loops_kernels_and_shards_multiply():
    a = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    product = 2 * 8**3
    assert traced(lambda a: jax.lax.scan(lambda c, _: (c @ a, None), a, None, length=5)[0], a).flops == 5 * product

    def kernel(x, out):
        out[...] = x[...] @ x[...]

    shape = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    assert traced(lambda a: pl.pallas_call(kernel, out_shape=shape, grid=(3, 2))(a), a).kernels == 6 * product

    mesh = AbstractMesh((4,), ("context",))
    spec = PartitionSpec("context")
    sharded = jax.shard_map(lambda a: a @ a.T, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    assert traced(sharded, a).flops == 4 * (2 * 2 * 2 * 8)


def test_the_dearest_branch_counts():
    a = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    program = traced(lambda a: jax.lax.cond(a[0, 0] > 0, lambda a: a @ a @ a, lambda a: a @ a, a), a)
    assert program.flops == 2 * 2 * 8**3


def test_what_the_program_itself_sends():
    mesh = AbstractMesh((4,), ("context",))

    def body(x):  # [2, 8]
        x = jax.lax.all_to_all(x, "context", 1, 0, tiled=True)
        x = jax.lax.ppermute(x, "context", [(i, (i + 1) % 4) for i in range(4)])
        return jax.lax.psum(x, "context")

    sharded = jax.shard_map(body, mesh=mesh, in_specs=PartitionSpec("context"), out_specs=PartitionSpec())
    size = 2 * 8 * 4
    assert traced(
        lambda x: jax.lax.scan(lambda c, _: (c, sharded(x)), 0, None, length=3)[1], jnp.ones((8, 8))
    ).sent == [
        Sent("all-to-all", ("context",), 3, 3 * size, 3 * size * 3 / 4),
        Sent("collective-permute", ("context",), 3, 3 * size, 3 * size),
        Sent("all-reduce", ("context",), 3, 3 * size, 3 * size * 2 * 3 / 4),
    ]


def test_what_is_kept_for_the_backward_pass():
    """A scan that keeps one [16, 8] a turn, and nothing more under remat."""
    w = jax.ShapeDtypeStruct((6, 8, 8), jnp.float32)
    x = jax.ShapeDtypeStruct((16, 8), jnp.float32)

    def loss(w, x, policy):
        body = jax.checkpoint(lambda c, w: (jnp.sin(jnp.sin(c @ w)), None), policy=policy)
        return jax.lax.scan(body, x, w)[0].sum()

    nothing, everything = jax.checkpoint_policies.nothing_saveable, jax.checkpoint_policies.everything_saveable
    kept = {p: traced(jax.grad(lambda w, x, p=p: loss(w, x, p)), w, x).kept for p in (nothing, everything)}
    assert kept[nothing] == 6 * 16 * 8 * 4
    assert kept[everything] >= 2 * kept[nothing]


def test_an_unknown_loop_is_counted_once_and_noted():
    a = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    program = traced(lambda a: jax.lax.while_loop(lambda c: c[0, 0] < 1, lambda c: c @ c, a), a)
    assert (program.flops, program.unknown_loops) == (2 * 8**3, 1)
    assert dataclasses.asdict(program)["unknown_loops"] == 1
