import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from vdm_jax.attention import Policy
from vdm_jax.nn import stack as stacks
from vdm_jax.nn.attention import SelfAttention
from vdm_jax.nn.mlp import MLP
from vdm_jax.nn.norms import layer_norm
from vdm_jax.nn.stack import REMAT_POLICIES, check_remat, run_stack, stack
from vdm_jax.sharding.rules import logical_axes

DEPTH, DIM = 3, 8
X = jax.random.normal(jax.random.key(1), (2, 6, DIM))


class Block(nnx.Module):
    """Attention and MLP, with the names that remat policies choose from."""

    def __init__(self, rngs):
        self.attention = SelfAttention(DIM, 2, rngs=rngs, kernel="chunked")
        self.mlp = MLP(DIM, 16, activation="gelu", rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(checkpoint_name(layer_norm(x), "attention_in"), Policy(causal=True))
        return x + checkpoint_name(self.mlp(layer_norm(x)), "mlp_hidden")


@functools.cache
def blocks():
    """Three blocks, stacked."""
    return stack(Block, DEPTH, nnx.Rngs(0))


def loss(remat):
    graphdef, state = nnx.split(blocks())

    def total(state, x):
        y = run_stack(nnx.merge(graphdef, state), x, lambda block, h: block(h), remat)
        return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum(), y

    return functools.partial(jax.value_and_grad(total, argnums=(0, 1), has_aux=True), state, X)


def leaves(remat):
    (_, y), grads = jax.jit(loss(remat))()
    return [np.asarray(leaf) for leaf in (y, *jax.tree.leaves(grads))]


@functools.cache
def one_after_the_other():
    """Output and gradients of a plain Python loop over the blocks."""
    graphdef, state = nnx.split(blocks())

    def total(state, x):
        y = x
        for i in range(DEPTH):
            y = nnx.merge(graphdef, jax.tree.map(lambda leaf, i=i: leaf[i], state))(y)
        return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum(), y

    (_, y), grads = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(state, X)
    return [np.asarray(leaf) for leaf in (y, *jax.tree.leaves(grads))]


@pytest.mark.parametrize("remat", REMAT_POLICIES)
def test_every_policy_gives_the_same_output_and_gradients(remat):
    for got, want in zip(leaves(remat), one_after_the_other(), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_scanned_equals_unrolled(monkeypatch):
    monkeypatch.setattr(stacks, "_unroll", lambda blocks, remat: 1)
    assert "scan" in str(jax.make_jaxpr(loss("none"))())
    for got, want in zip(leaves("none"), one_after_the_other(), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_blocks_start_different_and_know_that_they_are_stacked():
    state = nnx.state(blocks())
    kernel = state["mlp"]["up"]["kernel"][...]
    assert kernel.shape == (DEPTH, DIM, 1, 16)
    assert np.abs(kernel[0] - kernel[1]).max() > 0.01
    axes = jax.tree.leaves(logical_axes(state), is_leaf=lambda x: isinstance(x, tuple))
    assert {names[0] for names in axes} == {"layers"}
    assert ("layers", "embed", None, "mlp") in axes


def count(jaxpr, primitive):
    """How often a primitive stands in a program, inner programs included (a loop's body counts once)."""
    found = 0
    for eqn in jaxpr.eqns:
        found += eqn.primitive.name == primitive
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            found += count(inner, primitive) if hasattr(inner, "eqns") else 0
    return found


def test_keeping_output_and_lse_spares_the_backward_pass_all_of_attention(monkeypatch):
    monkeypatch.setattr(stacks, "_unroll", lambda blocks, remat: 1)  # one body each, so that counts compare
    exps, dots = (
        {r: count(jax.make_jaxpr(loss(r))().jaxpr, p) for r in REMAT_POLICIES} for p in ("exp", "dot_general")
    )
    forward = 2  # e^(s - m') and e^(m - m') of the forward kernel
    assert exps["none"] > forward
    assert exps["full"] == exps["none"] + forward
    assert exps["attention"] == exps["attention_mlp"] == exps["offload"] == exps["none"]
    # Q K^T and P V are not formed again, and with the MLP's output kept its last product is not either.
    assert dots["attention"] <= dots["full"] - 2
    assert dots["attention_mlp"] <= dots["attention"]
    assert dots["none"] < dots["attention_mlp"]


def test_shallow_stacks_are_straight_code_on_a_cpu_and_deep_ones_are_not():
    assert stacks._unroll(blocks(), "none") == DEPTH
    assert stacks._unroll(blocks(), "full") == 1
    assert stacks._unroll({"w": np.zeros((9, 2))}, "none") == 1


def test_unknown_policies_are_refused_by_name():
    with pytest.raises(ValueError, match="remat: unknown 'atention'; did you mean 'attention'"):
        check_remat("atention")
