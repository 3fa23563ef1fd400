"""A small network with every kind of layer an adapter can stand beside, and what holds for any adapter of it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict

from vdm_jax.attention import Policy
from vdm_jax.nn.attention import CrossAttention, SelfAttention
from vdm_jax.nn.conv import Conv
from vdm_jax.nn.linear import Linear
from vdm_jax.nn.mlp import MLP
from vdm_jax.nn.stack import run_stack, stack
from vdm_jax.sharding import MeshConfig, make_mesh, place_batch
from vdm_jax.training.optimizer import OptimizerConfig
from vdm_jax.training.recipe import Stage, Update
from vdm_jax.training.state import plan_state
from vdm_jax.training.step import StepConfig, make_train_step

DIM, TEXT, DEPTH = 16, 6, 2


class Block(nnx.Module):
    """Attention with three fused matrices, with two, and an MLP."""

    def __init__(self, rngs):
        self.attention = SelfAttention(DIM, 2, rngs=rngs)
        self.cross = CrossAttention(DIM, 2, context_dim=TEXT, rngs=rngs)
        self.mlp = MLP(DIM, 2 * DIM, activation="geglu", rngs=rngs)

    def __call__(self, x, text):
        x = x + self.attention(x, Policy())
        return x + self.mlp(x + self.cross(x, text))


class Network(nnx.Module):
    """`x [B, T, H, W, 3], text [B, L, 6] -> [B, T, H, W, 3]`."""

    def __init__(self, rngs):
        self.ends = nnx.List(
            [Conv(3, DIM, (3, 3), rngs=rngs, stride=2), Linear(DIM, 12, axes=("embed", None), rngs=rngs)]
        )
        self.over_time = Conv(DIM, DIM, (3, 1, 1), rngs=rngs)
        self.blocks = stack(Block, DEPTH, rngs)

    def __call__(self, x, text):
        h = self.ends[0](x)
        h = h + self.over_time(h)
        tokens = h.reshape(h.shape[0], -1, DIM)
        tokens = run_stack(self.blocks, tokens, lambda block, tokens: block(tokens, text), "full")
        y = self.ends[1](tokens).reshape(*h.shape[:-1], 2, 2, 3)
        return jnp.moveaxis(y, (-3, -2), (3, 5)).reshape(x.shape)


def inputs(seed=0, batch=8):
    """A batch: a noisy clip, its text, and what to make of it."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batch, 2, 4, 4, 3)).astype(np.float32)
    return {"x": x, "text": rng.normal(size=(batch, 5, TEXT)).astype(np.float32), "y": np.sin(x)}


def loss(networks, batch, rng):
    """Mean squared error."""
    return jnp.mean((networks["backbone"](batch["x"], batch["text"]) - batch["y"]) ** 2), {}


def training(adapt, trains, mesh=None):
    """The plan and step of a run that trains only what `adapt(network, rngs)` puts in."""

    def make(rngs):
        network = Network(rngs)
        adapt(network, rngs)
        return {"backbone": network}

    mesh = make_mesh(mesh or MeshConfig(), jax.devices()[: 1 if mesh is None else 8])
    optimizer = OptimizerConfig(learning_rate=0.01, warmup=0, schedule="constant", weight_decay=0.1)
    plan = plan_state(make, Stage("train", (Update("train", loss, optimizer, trains),), 9), mesh)
    return plan, make_train_step(plan, StepConfig(), 0)


def check_only_the_adapter_trains(adapt, tag, steps=3):
    """Holds for any adapter: in training the base keeps its bits, and there is state for the adapter alone.

    Returns:
      The losses.
    """
    plan, step = training(adapt, (tag,))
    state = plan.init(0)
    before, losses = flatten_dict(jax.device_get(state.params)), []
    for index in range(steps):
        state, metrics = step(state, place_batch(inputs(index), plan.mesh))
        losses.append(float(metrics["loss"]))
    for path, leaf in flatten_dict(jax.device_get(state.params)).items():
        same = leaf.tobytes() == before[path].tobytes()
        assert same == (tag not in path), "/".join(path)
    own = sum(leaf.size for path, leaf in before.items() if tag in path)
    assert sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim) == 2 * own
    assert [sum(leaf.size for leaf in jax.tree.leaves(ema)) for ema in state.ema.values()] == [own]
    return losses


def matrix_products(jaxpr):
    """Sizes of the results of all matrix products of a program."""
    found = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
            found.append(math.prod(eqn.outvars[0].aval.shape))
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            found += matrix_products(inner) if hasattr(inner, "eqns") else []
    return found
