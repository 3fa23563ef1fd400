"""A network of two scanned blocks, an objective with randomness, and a batch: enough to test all of a step."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vdm_jax.sharding import MeshConfig, constrain, make_mesh, place_batch
from vdm_jax.training.ema import EMAConfig
from vdm_jax.training.optimizer import OptimizerConfig
from vdm_jax.training.recipe import Stage, Update
from vdm_jax.training.state import StatePlan, plan_state
from vdm_jax.training.step import StepConfig, TrainStep, make_train_step

DIM, HIDDEN, BATCH, TOKENS = 8, 16, 16, 4


def param(rngs, shape, axes, scale=0.3):
    """Normal weights that know their logical axes."""
    return nnx.Param(scale * jax.random.normal(rngs.params(), shape), out_sharding=axes, eager_sharding=False)


class Block(nnx.Module):
    """A residual MLP with a gain; `spatial` and `temporal` are tags to filter by."""

    def __init__(self, rngs):
        self.scale = param(rngs, (DIM,), ("norm",))
        self.spatial = nnx.Dict(kernel=param(rngs, (DIM, HIDDEN), ("embed", "mlp")))
        self.temporal = nnx.Dict(kernel=param(rngs, (HIDDEN, DIM), ("mlp", "embed")))

    def __call__(self, x):
        h = jnp.tanh((x * self.scale[...]) @ self.spatial["kernel"][...])
        h = constrain(h, "batch", "tokens", "mlp")
        return x + h @ self.temporal["kernel"][...]


class Backbone(nnx.Module):
    """Two scanned blocks, and a bias that no mesh divides."""

    def __init__(self, rngs):
        self.blocks = nnx.vmap(Block, transform_metadata={nnx.PARTITION_NAME: "layers"})(rngs.split(2))
        bias, kernel = param(rngs, (3,), ("embed",)), param(rngs, (DIM, 3), ("embed", None))
        self.head = nnx.List([nnx.Dict(bias=bias, kernel=kernel)])

    def __call__(self, x):
        x = constrain(x, "batch", "tokens", "embed")
        x = jax.lax.scan(lambda h, block: (block(h), None), x, self.blocks)[0]
        return x @ self.head[0]["kernel"][...] + self.head[0]["bias"][...]


class Noisy:
    """Recover a target from a noisy input; the noise is drawn per example of the whole batch."""

    def draw(self, batch, rng):
        return jax.random.split(rng, batch["x"].shape[0])

    def loss(self, networks, batch, draws):
        backbone = networks["backbone"]
        noise = jax.vmap(lambda key: jax.random.normal(key, (TOKENS, DIM)))(draws)
        dtype = jax.tree.leaves(nnx.state(backbone))[0].dtype
        out = backbone((batch["x"] + 0.1 * noise).astype(dtype))
        error = (out.astype(jnp.float32) - batch["y"]) ** 2
        return error.mean(), {"double": 2 * error.mean(), "bits": 8.0 * out.dtype.itemsize}

    def __call__(self, networks, batch, rng):
        return self.loss(networks, batch, self.draw(batch, rng))

    def evaluate(self, networks, batch, rng):
        return {"mse": self.loss(networks, batch, rng)[0]}


def make_networks(rngs):
    """The networks of a tiny run."""
    return {"backbone": Backbone(rngs)}


OPTIMIZER = OptimizerConfig(learning_rate=0.02, warmup=2, weight_decay=0.1, clip_norm=1.0)


@dataclasses.dataclass(frozen=True)
class Run:
    """A plan, its compiled step, and how to call it."""

    plan: StatePlan
    step: TrainStep

    def start(self, seed=0):
        return self.plan.init(seed)

    def place(self, batch):
        return place_batch(batch, self.plan.mesh)

    def curve(self, steps):
        """The losses of the first steps, and the state after them."""
        state, losses = self.start(), []
        for index in range(steps):
            state, metrics = self.step(state, self.place(batch_of(index)))
            losses.append(float(metrics["loss"]))
        return np.array(losses), state


def batch_of(index, size=BATCH):
    """Batch number `index` of an endless stream."""
    rng = np.random.default_rng(index)
    x = rng.normal(size=(size, TOKENS, DIM)).astype(np.float32)
    return {"x": x, "y": np.sin(x[..., :3] * 2) + x[..., 3:6], "index": np.arange(size) + index * size}


def make_run(mesh=None, accumulate=1, precision="float32", updates=None, guard=None, seed=7, masters="float32"):
    """A run of 20 steps, on one device unless a mesh config says more."""
    mesh = make_mesh(mesh or MeshConfig(), jax.devices()[: 1 if mesh is None else 8])
    stage = Stage("train", updates or (Update("train", Noisy(), OPTIMIZER),), 20)
    plan = plan_state(make_networks, stage, mesh, ema=EMAConfig((0.9, 0.99)), guard=guard, masters=masters)
    return Run(plan, make_train_step(plan, StepConfig(accumulate, precision), seed))


@functools.cache
def plain_run():
    """One device, float32, no accumulation."""
    return make_run()


@functools.cache
def plain_curve():
    """Ten losses of `plain_run`, and the state after them; do not donate it."""
    return plain_run().curve(10)


def bits(tree):
    """The exact bytes of every leaf."""
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]
