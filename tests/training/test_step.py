import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clu.metrics import Average
from flax import nnx

from tests.training.tiny_run import (
    BATCH,
    DIM,
    OPTIMIZER,
    TOKENS,
    Noisy,
    batch_of,
    bits,
    make_run,
    plain_curve,
    plain_run,
)
from vdm_jax.sharding import MeshConfig
from vdm_jax.training.guard import GuardConfig
from vdm_jax.training.optimizer import make_learning_rate
from vdm_jax.training.recipe import Update
from vdm_jax.training.state import weights
from vdm_jax.training.step import StepConfig, abstract_batch, make_eval_step

MESHES = {
    "data": MeshConfig(data=8),
    "fsdp": MeshConfig(data=1, fsdp=8),
    "tensor": MeshConfig(data=1, tensor=8),
    "context": MeshConfig(data=1, fsdp=2, context=4),
    "data_fsdp_tensor": MeshConfig(data=2, fsdp=2, tensor=2),
    "all": MeshConfig(data=1, fsdp=2, tensor=2, context=2),
}


@pytest.mark.parametrize("name", MESHES)
def test_loss_curve_is_that_of_one_device(name):
    want, _ = plain_curve()
    got, state = make_run(MESHES[name]).curve(10)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    kernel = state.params["backbone"]["blocks"]["spatial"]["kernel"]
    split = MESHES[name].fsdp * MESHES[name].context * MESHES[name].tensor
    assert kernel.addressable_shards[0].data.size * split == kernel.size


def test_training_lowers_the_loss():
    losses, state = plain_curve()
    assert losses[-3:].mean() < 0.7 * losses[:3].mean()
    assert int(state.step) == 10


@pytest.mark.parametrize(("mesh", "accumulate"), [("one", 4), *((name, 2) for name in MESHES)])
def test_accumulation_equals_the_big_batch(mesh, accumulate):
    big, micro = plain_run(), make_run(MESHES.get(mesh), accumulate=accumulate)
    a, metrics_a = big.step(big.start(), big.place(batch_of(0)))
    b, metrics_b = micro.step(micro.start(), micro.place(batch_of(0)))
    for name in ("loss", "grad_norm", "double"):
        np.testing.assert_allclose(float(metrics_a[name]), float(metrics_b[name]), rtol=1e-6, atol=1e-6)
    moments = lambda s: jax.tree.leaves(s.opt_state)  # noqa: E731 (Adam's first moment is the gradient itself)
    for x, y in zip(moments(a), moments(b)):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=1e-5, atol=1e-6)


def test_a_plain_function_is_an_objective():
    def objective(networks, batch, rng):
        noise = jax.random.normal(rng, batch["x"].shape)
        return ((networks["backbone"](batch["x"] + 0.1 * noise) - batch["y"]) ** 2).mean(), {}

    run = make_run(accumulate=2, updates=(Update("train", objective, OPTIMIZER),))
    losses, _ = run.curve(3)
    assert np.isfinite(losses).all()
    assert losses[2] != losses[0]


def test_same_seed_same_bits_and_another_seed_another_run():
    run, (losses, state) = plain_run(), plain_curve()
    again, state_again = run.curve(10)
    assert losses.tobytes() == again.tobytes()
    assert bits(state) == bits(state_again)
    other = dataclasses.replace(run.step, seed=jnp.uint32(8))
    _, metrics = other(run.start(), run.place(batch_of(0)))
    assert float(metrics["loss"]) != losses[0]


def test_frozen_leaves_keep_their_bits():
    run = make_run(updates=(Update("motion", Noisy(), OPTIMIZER, trains=("temporal",)),))
    before = jax.tree.map(np.asarray, run.start().params)["backbone"]
    _, state = run.curve(3)
    after = state.params["backbone"]
    for path in (("blocks", "spatial", "kernel"), ("blocks", "scale"), ("head", "0", "bias")):
        a, b = before, after
        for key in path:
            a, b = a[key], b[key]
        assert bits(a) == bits(b)
    assert bits(before["blocks"]["temporal"]) != bits(after["blocks"]["temporal"])
    # No moments and no averages are held for what never changes.
    assert jax.tree.leaves(state.ema["0.9"])[0].shape == before["blocks"]["temporal"]["kernel"].shape
    assert len(jax.tree.leaves(state.ema["0.9"])) == 1
    averaged = weights(state, "0.9")["backbone"]
    assert bits(averaged["blocks"]["spatial"]) == bits(before["blocks"]["spatial"])


def test_clipping_bounds_the_gradient_the_optimizer_sees():
    tight = dataclasses.replace(OPTIMIZER, clip_norm=0.01)
    run = make_run(updates=(Update("train", Noisy(), tight),))
    state, metrics = run.step(run.start(), run.place(batch_of(0)))
    assert float(metrics["grad_norm"]) > 1  # the norm before clipping is what is reported
    moments = state.opt_state["train"][0].mu
    norm = np.sqrt(sum(float((leaf.astype(jnp.float32) ** 2).sum()) for leaf in jax.tree.leaves(moments)))
    np.testing.assert_allclose(norm, (1 - tight.beta1) * 0.01, rtol=1e-5)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_masters():
    run = make_run(precision="bfloat16")
    losses, state = run.curve(10)
    _, metrics = run.step(run.start(), run.place(batch_of(0)))
    assert float(metrics["bits"]) == 16.0
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.ema))} == {jnp.dtype("float32")}
    np.testing.assert_allclose(losses, plain_curve()[0], rtol=0.05)
    assert losses.tobytes() != plain_curve()[0].tobytes()


@pytest.mark.parametrize("mesh", [None, MeshConfig(data=2, fsdp=4)], ids=["one", "mesh"])
def test_bfloat16_masters_take_half_the_memory_and_averages_stay_float32(mesh):
    run = make_run(mesh, precision="bfloat16", masters="bfloat16")
    losses, state = run.curve(10)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("bfloat16")}
    moments = state.opt_state["train"][0]
    assert {leaf.dtype for leaf in jax.tree.leaves((moments.mu, moments.nu))} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(state.ema)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(losses, plain_curve()[0], rtol=0.05)


def test_fsdp_gathers_the_bfloat16_copy():
    run = make_run(MeshConfig(data=1, fsdp=8), precision="bfloat16")
    batch = abstract_batch(run.plan, {"x": ((BATCH, TOKENS, DIM), jnp.float32), "y": ((BATCH, TOKENS, 3), jnp.float32)})
    text = run.step.lower(run.plan.abstract, batch).as_text()
    # Before partitioning: each cast of a master is pinned to the master's shards, so only its result can be gathered.
    pinned = [line for line in text.splitlines() if "sharding_constraint" in line and "xbf16>" in line]
    assert len(pinned) >= len(jax.tree.leaves(run.plan.abstract.params))


def test_guard_leaves_every_bit_of_the_state():
    run = plain_run()
    state, _ = run.step(run.start(), run.place(batch_of(0)))
    before = [bits(part) for part in (state.params, state.opt_state, state.ema)]
    bad = batch_of(1)
    bad["x"][3, 0, 0] = np.nan
    state, metrics = run.step(state, run.place(bad))
    assert [bits(part) for part in (state.params, state.opt_state, state.ema)] == before
    assert (int(state.step), int(metrics["skipped"]), int(metrics["skipped_in_a_row"])) == (2, 1, 1)
    state, metrics = run.step(state, run.place(batch_of(2)))
    assert (int(metrics["skipped"]), int(metrics["skipped_in_a_row"])) == (1, 0)
    assert bits(state.params) != before[0]


def test_spikes_are_skipped_once_the_window_is_full():
    run = make_run(guard=GuardConfig(spike_sigma=6.0, window=4))
    state = run.start()
    for index in range(4):
        state, metrics = run.step(state, run.place(batch_of(index)))
    assert int(metrics["skipped"]) == 0
    before, spike = bits(state.params), batch_of(4)
    spike["y"] *= 1e4
    state, metrics = run.step(state, run.place(spike))
    assert int(metrics["skipped"]) == 1
    assert bits(state.params) == before


def test_updates_run_in_order_each_on_its_own_weights():
    seen = {}

    def first(networks, batch, rng):
        return Noisy()(networks, batch, rng)

    def second(networks, batch, rng):
        bias = nnx.state(networks["backbone"])["blocks"]["spatial"]["kernel"][...]
        seen["traced"] = True
        return Noisy()(networks, batch, rng)[0], {"first_kernel": jnp.abs(bias).sum()}

    updates = (
        Update("space", first, OPTIMIZER, trains=("spatial",)),
        Update("time", second, OPTIMIZER, trains=("temporal",), every=2),
    )
    run = make_run(updates=updates)
    state = run.start()
    start = bits(state.params["backbone"]["blocks"]["temporal"])
    state, metrics = run.step(state, run.place(batch_of(0)))
    kernel = np.abs(np.asarray(state.params["backbone"]["blocks"]["spatial"]["kernel"])).sum()
    # The second update sees the weights that the first one has just left.
    np.testing.assert_allclose(float(metrics["time/first_kernel"].compute()), kernel, rtol=1e-6)
    after = bits(state.params["backbone"]["blocks"]["temporal"])
    assert after != start
    state, metrics = run.step(state, run.place(batch_of(1)))
    assert bits(state.params["backbone"]["blocks"]["temporal"]) == after
    assert isinstance(metrics["time/loss"], Average)
    assert float(metrics["time/loss"].count) == 0
    assert np.isfinite(float(metrics["space/loss"]))


def test_learning_rate_is_that_of_the_step():
    run = plain_run()
    want = make_learning_rate(OPTIMIZER, 20)
    state = run.start()
    for index in range(3):
        state, metrics = run.step(state, run.place(batch_of(index)))
        np.testing.assert_allclose(float(metrics["learning_rate"]), float(want(index)), rtol=1e-6)


def test_evaluation_judges_an_example_alike_in_every_batch():
    run = plain_run()
    params = run.start().params
    evaluate = make_eval_step(run.plan, Noisy(), StepConfig(), seed=3)
    batch = batch_of(0)
    whole = float(evaluate(params, run.place(batch))["mse"])
    halves = [{k: v[part] for k, v in batch.items()} for part in (slice(8, 16), slice(0, 8))]
    parts = [float(evaluate(params, run.place(half))["mse"]) for half in halves]
    np.testing.assert_allclose(np.mean(parts), whole, rtol=1e-6)
    with pytest.raises(ValueError, match="index"):
        evaluate(params, run.place({k: batch[k] for k in ("x", "y")}))


def test_a_batch_that_does_not_split_is_refused_before_any_compile():
    run = make_run(MeshConfig(data=8), accumulate=4)
    with pytest.raises(ValueError, match=r"batch_size: 16 .* = 32 parts; the nearest that does is 32"):
        run.step(run.start(), run.place(batch_of(0)))


@pytest.mark.parametrize(("fields", "message"), [
    ({"precision": "bf16"}, "precision: unknown 'bf16'; did you mean 'bfloat16'"),
    ({"accumulate": 0}, "accumulate: 0"),
])  # fmt: skip
def test_step_config_names_what_is_wrong(fields, message):
    with pytest.raises(ValueError, match=message):
        StepConfig(**fields)
