import dataclasses

import jax
import numpy as np
import pytest

from tests.training.dit_runs import BATCH, NETWORKS, alone, batch_of, compiled, config_of, tokenizer, weights_of
from vdm_jax.training.run import assemble, evaluator
from vdm_jax.training.run_config import run_config_from
from vdm_jax.training.state import weights

FULL = next(iter(NETWORKS))


@pytest.mark.parametrize(
    ("mesh", "train", "message"),
    [
        ({"data": 3}, {}, "mesh: data 3 .* does not fit 8 devices"),
        ({"data": 8}, {"batch_size": 12}, "batch_size: 12 does not divide .* nearest that does is"),
        ({"data": 8}, {"accumulate": 2}, "batch_size: 8 does not divide .* = 16 parts; the nearest that does is 16"),
    ],
)
def test_what_does_not_fit_the_mesh_is_refused_before_anything_is_built(mesh, train, message):
    with pytest.raises(ValueError, match=message):
        assemble(run_config_from(config_of(FULL, mesh, **train)), tokenizer().vocab_size, tokenizer().encode([""]))


def test_heads_that_the_tensor_axis_does_not_divide_are_refused():
    config = config_of(FULL, {"data": 2, "tensor": 4})
    config["model"] = {**config["model"], "heads": 2}
    with pytest.raises(ValueError, match="heads: 2 does not divide by tensor 4; the nearest tensor that does is 2"):
        assemble(run_config_from(config), tokenizer().vocab_size, tokenizer().encode([""]))


def test_assembling_makes_no_array():
    before = {id(x) for x in jax.live_arrays()}
    run = compiled(FULL, {"data": 8}).run
    leaves = jax.tree.leaves(run.plan.abstract.params)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    made = [x for x in jax.live_arrays() if id(x) not in before and x.size > 1]
    assert not made


def test_a_step_costs_three_forwards_of_each_clip():
    run = alone(FULL).run
    forward = run.config.networks.model.forward_flops(*run.config.clip_shape[:3], run.config.networks.text.length)
    assert run.flops_per_step == 3 * BATCH * forward
    accumulated = dataclasses.replace(run.config, train=dataclasses.replace(run.config.train, accumulate=2))
    assert dataclasses.replace(run, config=accumulated).flops_per_step == run.flops_per_step


def test_evaluation_judges_the_sampled_weights_on_fixed_clips():
    run = alone(FULL).run
    state = run.plan.start_from(weights_of(FULL))
    measure = evaluator(run, [batch_of(0), batch_of(1)])
    first = measure(state)
    assert measure(state) == first
    assert np.isfinite(list(first.values())).all()
    np.testing.assert_allclose(np.mean([v for k, v in first.items() if k.startswith("mse/")]), first["mse"], rtol=1e-5)
    # The average is asked for by the config; raw weights that went astray are not looked at.
    averaged = dataclasses.replace(run.config, sample=dataclasses.replace(run.config.sample, ema=0.999))
    astray = dataclasses.replace(state, params=jax.tree.map(lambda x: x + 1, state.params))
    judged = evaluator(dataclasses.replace(run, config=averaged), [batch_of(0), batch_of(1)])(astray)
    np.testing.assert_allclose(judged["loss"], first["loss"], rtol=1e-5)


def test_the_generator_of_a_run_takes_its_weights():
    run = alone(FULL).run
    few = dataclasses.replace(run.config, sample=dataclasses.replace(run.config.sample, steps=2, guidance=2.0))
    generate = dataclasses.replace(run, config=few).generator()
    params = weights(run.plan.start_from(weights_of(FULL)))
    clips = np.asarray(generate(params, tokenizer().encode(["red", "blue"]), jax.random.key(0)))
    assert clips.shape == (2, *run.config.clip_shape)
    assert np.abs(clips).max() <= 1.0
