"""The train step: one pure function from (state, batch) to (state, metrics), compiled with donation.

For each update of the stage, in order:

    draws   = objective.draw(batch, fold_in(key(seed, "train"), step, update))     for the whole batch
    params_c = compute_copy(params)                                                bfloat16 or float32, cast once
    loss, g = mean over microbatches of value_and_grad(objective.loss)             accumulated in float32
    g       = g min(1, clip / |g|)
    u       = optimizer(g);  params += learning_rate(step) u;  ema += (1 - d)(params - ema)
    all of the line above only if the guard accepts loss and |g|

and then networks that follow others (`Stage.targets`) go a part of the way.

Randomness is drawn for the whole batch and cut with it (`objectives.Drawn`), so neither microbatches nor hosts nor
devices change what is drawn, and `accumulate=4` equals the big batch up to rounding.  Microbatch j takes the examples
j, j + A, j + 2A ... because those are already on the right devices; contiguous ones would have to move.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from vdm_jax.objectives import Drawn
from vdm_jax.sharding import activation_sharding, batch_sharding, check_batch, gathered, replicated
from vdm_jax.training import guard as guards
from vdm_jax.training.ema import update_emas
from vdm_jax.training.optimizer import clip_scale, make_learning_rate
from vdm_jax.training.precision import check_precision, compute_copy
from vdm_jax.training.recipe import Target, Update
from vdm_jax.training.state import Params, StatePlan, TrainState, overlay, stream, subset

if TYPE_CHECKING:
    from clu.metrics import Average

Batch = Mapping[str, Any]
Metrics = dict[str, "jax.Array | Average"]
F32 = jnp.float32


@dataclasses.dataclass(frozen=True)
class StepConfig:
    """How a step computes.

    Attributes:
      accumulate: microbatches per update.
      precision: `float32` or `bfloat16`, of the computation; that of the state is the plan's (`masters`).
    """

    accumulate: int = 1
    precision: str = "float32"

    def __post_init__(self):
        check_precision(self.precision)
        if self.accumulate < 1:
            raise ValueError(f"accumulate: {self.accumulate!r} must be 1 or more")


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """`step(state, batch) -> (state, metrics)`; the state given is donated and must not be used again.

    Metrics are float32 or int32 scalars on the device: those of the objective, `loss`, `grad_norm`,
    `learning_rate`, `skipped` (all so far) and `skipped_in_a_row`.  With several updates each name begins with
    `<update>/`, and those of an update with `every` above 1 are `clu.metrics.Average`s that count no value in a step
    in which it rested.
    """

    compiled: Any
    seed: int
    mesh: Mesh

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return self.compiled(state, batch, self.placed_seed)

    @functools.cached_property
    def placed_seed(self) -> jax.Array:
        """The seed on the mesh: uint32, placed by the first call, for the machine of a program may be absent."""
        return jax.device_put(np.uint32(self.seed), replicated(self.mesh))

    def trace(self, state: TrainState, batch: Batch) -> jax.stages.Traced:
        """The program for (abstract) arguments, to look at, lower or compile; its machine need not be there."""
        seed = jax.ShapeDtypeStruct((), jnp.uint32, sharding=replicated(self.mesh))
        return self.compiled.trace(state, batch, seed)

    def lower(self, state: TrainState, batch: Batch) -> jax.stages.Lowered:
        """The same lowered, to compile without running."""
        return self.trace(state, batch).lower()


def make_train_step(plan: StatePlan, config: StepConfig, seed: int) -> TrainStep:
    """Builds the compiled step of a stage.

    Args:
      plan: of `plan_state`.
      config: accumulation and precision.
      seed: of the run; an argument of the program, so that another seed compiles nothing.
    """

    def train_step(state: TrainState, batch: Batch, seed: jax.Array) -> tuple[TrainState, Metrics]:
        check_batch(plan.mesh, _batch_size(batch), config.accumulate)
        key = jax.random.fold_in(stream(seed, "train"), state.step)
        metrics: Metrics = {}
        with activation_sharding(plan.mesh, plan.rules):
            for index, update in enumerate(plan.stage.updates):
                update_key = jax.random.fold_in(key, index)
                state, measured = _run_if_due(plan, config, update, state, batch, update_key)
                prefix = f"{update.name}/" if len(plan.stage.updates) > 1 else ""
                metrics |= {prefix + name: value for name, value in measured.items()}
            state = dataclasses.replace(state, params=_follow(plan.stage.targets, state.params))
        return dataclasses.replace(state, step=state.step + 1), metrics

    out = (plan.shardings, replicated(plan.mesh))
    partitioned = jax.sharding.auto_axes(train_step, out_sharding=out)  # itself, unless the mesh has Explicit axes
    compiled = jax.jit(partitioned, donate_argnums=0, out_shardings=out)
    return TrainStep(compiled, seed, plan.mesh)


def _follow(targets: tuple[Target, ...], params: Params) -> Params:
    """Parameters in which each target has gone a part of the way to what it follows."""

    def toward(target: Target):
        return lambda mine, theirs: mine + (1.0 - target.decay) * (theirs.astype(mine.dtype) - mine)

    return params | {t.network: jax.tree.map(toward(t), params[t.network], params[t.of]) for t in targets}


def _run_if_due(plan, config, update: Update, state: TrainState, batch, key) -> tuple[TrainState, Metrics]:
    def run(state: TrainState) -> tuple[TrainState, Metrics]:
        return _run(plan, config, update, state, batch, key)

    if update.every == 1:
        return run(state)

    from clu.metrics import Average  # only here: a plain step runs where clu is not installed

    def counted(state: TrainState) -> tuple[TrainState, Metrics]:
        state, measured = run(state)
        return state, jax.tree.map(Average.from_model_output, measured)

    def rest(state: TrainState) -> tuple[TrainState, Metrics]:
        return state, jax.tree.map(jnp.zeros_like, jax.eval_shape(counted, state)[1])

    state, measured = jax.lax.cond(state.step % update.every == 0, counted, rest, state)
    return state, measured | _counters(state.guard[update.name])


def _run(plan: StatePlan, config: StepConfig, update: Update, state: TrainState, batch, key):
    """One update of the state; see the module docstring."""
    name, paths = update.name, plan.trains[update.name]
    trained = subset(state.params, paths)
    loss, measured, grads = _loss_and_gradients(plan, config, update, state.params, batch, key)

    grad_norm = optax.global_norm(grads)
    scale = clip_scale(grad_norm, update.optimizer.clip_norm)
    grads = jax.tree.map(lambda g: g * scale, grads)
    learning_rate = make_learning_rate(update.optimizer, plan.stage.steps)(state.step)
    updates, opt_state = plan.optimizers[name].update(grads, state.opt_state[name], trained)
    new = jax.tree.map(lambda p, u: p + learning_rate * u, trained, updates)

    accepted = guards.accepts(plan.guard, state.guard[name], loss, grad_norm)
    counters = guards.count(plan.guard, state.guard[name], accepted, grad_norm)
    old_averages = {decay: subset(ema, paths) for decay, ema in state.ema.items()}
    averages = update_emas(plan.ema, old_averages, new, state.step)
    new, opt_state, averages = guards.keep_if(
        accepted, (new, opt_state, averages), (trained, state.opt_state[name], old_averages)
    )
    state = TrainState(
        step=state.step,
        params=overlay(state.params, new),
        opt_state=state.opt_state | {name: opt_state},
        ema={decay: overlay(state.ema[decay], average) for decay, average in averages.items()},
        guard=state.guard | {name: counters},
    )
    measured |= {"loss": loss, "grad_norm": grad_norm, "learning_rate": learning_rate}
    return state, measured | _counters(counters)


def _loss_and_gradients(plan, config, update: Update, params: Params, batch, key) -> tuple[jax.Array, Metrics, Params]:
    """Mean loss, mean metrics and float32 gradients over the microbatches of a batch."""
    shardings = plan.shardings.params
    compute = compute_copy(params, shardings, config.precision)
    trained = subset(compute, plan.trains[update.name])
    pinned = subset(shardings, plan.trains[update.name])
    objective, parts = _parts(update.objective, batch, key, config.accumulate)

    def gradients(part: Any) -> tuple[jax.Array, Metrics, Params]:
        def loss(trained: Params):
            networks = plan.networks.merge(overlay(compute, trained))
            return objective({name: gathered(network) for name, network in networks.items()}, *part)

        (loss, measured), grads = jax.value_and_grad(loss, has_aux=True)(trained)
        grads = jax.tree.map(lambda g, s: jax.lax.with_sharding_constraint(g.astype(F32), s.spec), grads, pinned)
        return loss.astype(F32), _scalars(measured), grads

    first = jax.tree.map(lambda x: x[0], parts)
    if config.accumulate == 1:
        return gradients(first)
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(gradients, first))
    total, _ = jax.lax.scan(lambda sums, part: (jax.tree.map(jnp.add, sums, gradients(part)), None), zero, parts)
    return jax.tree.map(lambda x: x / config.accumulate, total)


def _parts(objective: Any, batch: Batch, key: jax.Array, accumulate: int):
    """The function of one microbatch, and the arguments of all `[A, ...]`: batch and draws, or batch and key."""

    def split(x: jax.Array) -> jax.Array:
        return jnp.swapaxes(x.reshape(-1, accumulate, *x.shape[1:]), 0, 1)

    if isinstance(objective, Drawn):
        return objective.loss, jax.tree.map(split, (dict(batch), objective.draw(batch, key)))
    return objective, (jax.tree.map(split, dict(batch)), jax.random.split(key, accumulate))


def make_eval_step(plan: StatePlan, objective: Any, config: StepConfig, seed: int):
    """Builds `evaluate(params, batch) -> metrics`, without updates.

    Args:
      plan: of `plan_state`.
      objective: one with `evaluate(networks, batch, rng) -> metrics`.
      config: precision; `accumulate` has no part in it.
      seed: of the run.

    Returns:
      A function of `weights(state, ema)` and a batch with `index: [B]`.  The key of an example derives from the
      seed and its global index alone: the same clip is judged with the same noise in every evaluation of a run,
      whatever the batch it came in.
    """

    def evaluate(params: Params, batch: Batch, seed: jax.Array) -> Metrics:
        if "index" not in batch:
            raise ValueError(f"batch: evaluation needs 'index' [B], the batch has {', '.join(sorted(batch))}")
        keys = jax.vmap(jax.random.fold_in, (None, 0))(stream(seed, "eval"), batch["index"])
        with activation_sharding(plan.mesh, plan.rules):
            compute = compute_copy(params, plan.shardings.params, config.precision)
            return _scalars(objective.evaluate(plan.networks.merge(compute), batch, keys))

    whole = replicated(plan.mesh)
    compiled = jax.jit(jax.sharding.auto_axes(evaluate, out_sharding=whole), out_shardings=whole)
    on_device = jax.device_put(jnp.uint32(seed), whole)
    return lambda params, batch: compiled(params, batch, on_device)


def abstract_batch(plan: StatePlan, shapes: Mapping[str, tuple[tuple[int, ...], Any]]) -> dict[str, Any]:
    """`{key: (shape, dtype)}` as `ShapeDtypeStruct`s on the mesh, for `TrainStep.lower`."""
    sharding = batch_sharding(plan.mesh)
    return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for name, (shape, dtype) in shapes.items()}


def _batch_size(batch: Batch) -> int:
    sizes = {leaf.shape[0] for leaf in jax.tree.leaves(batch)}
    assert len(sizes) == 1, f"arrays of one batch have {sorted(sizes)} examples"
    return sizes.pop()


def _scalars(measured: Mapping[str, Any]) -> Metrics:
    return {name: jnp.asarray(value, F32) for name, value in measured.items()}


def _counters(guard: guards.GuardState) -> Metrics:
    return {"skipped": guard["skipped"], "skipped_in_a_row": guard["consecutive"]}
