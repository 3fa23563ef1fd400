"""Low-rank pairs in a run: what a mesh must not change, what is held, what is refused."""

import functools

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from tests.training.dit_runs import Compiled, config_of, tokenizer
from vdm_jax.training.run import assemble
from vdm_jax.training.run_config import complete, run_config_from
from vdm_jax.training.step import make_train_step

LORA = {"targets": ("to_q", "to_v", "ffn"), "rank": 2, "alpha": 4.0}
STEPS = 4


def config(mesh=None, lora=None, **train):
    return config_of("wan", mesh or {"data": 1}, **train) | {"init": "somewhere", "lora": lora or LORA}


def compiled(mesh, **train):
    count = int(np.prod(list(mesh.values())))
    checked = run_config_from(config(mesh, **train))
    run = assemble(checked, tokenizer().vocab_size, tokenizer().encode([""]), jax.devices()[:count])
    return Compiled(run, make_train_step(run.plan, run.step_config(), checked.seed))


@functools.cache
def alone():
    return compiled({"data": 1})


@functools.cache
def start():
    """Weights whose pairs do something."""
    rng = np.random.default_rng(0)
    flat = flatten_dict(jax.device_get(alone().run.plan.init(3).params))
    noise = {path: 0.05 * rng.standard_normal(leaf.shape).astype(np.float32) for path, leaf in flat.items()}
    return unflatten_dict({path: noise[path] if "lora" in path else leaf for path, leaf in flat.items()})


def test_the_loss_curve_is_that_of_one_device():
    wanted, _ = alone().curve(STEPS, start())
    got, state = compiled({"data": 1, "fsdp": 2, "context": 2, "tensor": 2}).curve(STEPS, start())
    np.testing.assert_allclose(got[:, 0], wanted[:, 0], rtol=0, atol=1e-5)
    assert len(np.unique(wanted[:, 0])) == STEPS
    before, after = (flatten_dict(params) for params in (start(), jax.device_get(state.params)))
    changed = {path for path in after if after[path].tobytes() != before[path].tobytes()}
    assert changed == {path for path in after if "lora" in path}
    assert {path[0] for path in changed} == {"backbone"}


def test_only_pairs_have_moments_and_averages():
    state = alone().run.plan.abstract
    pairs = sum(leaf.size for path, leaf in flatten_dict(state.params).items() if "lora" in path)
    assert sum(leaf.size for leaf in jax.tree.leaves(state.opt_state)) == 2 * pairs + 1  # and Adam's count
    assert [sum(leaf.size for leaf in jax.tree.leaves(ema)) for ema in state.ema.values()] == [pairs]
    assert pairs < 0.1 * sum(leaf.size for leaf in jax.tree.leaves(state.params))


def test_what_is_frozen_may_be_held_in_bfloat16():
    params = run_of(frozen="bfloat16").plan.abstract.params
    kinds = {("lora" in path, leaf.dtype.name) for path, leaf in flatten_dict(params).items()}
    assert kinds == {(True, "float32"), (False, "bfloat16")}


def test_fresh_pairs_stand_beside_given_weights():
    plan = alone().run.plan
    drawn = plan.draw(3, plan.trained)
    wanted = {path: leaf for path, leaf in flatten_dict(plan.init(3).params).items() if "lora" in path}
    assert flatten_dict(drawn).keys() == wanted.keys()
    for path, leaf in flatten_dict(drawn).items():
        np.testing.assert_array_equal(leaf, wanted[path])
        assert path[-2] == "a" or not np.any(leaf)


def run_of(lora=None, **train):
    checked = run_config_from(config(lora=lora, **train))
    return assemble(checked, tokenizer().vocab_size, tokenizer().encode([""]), jax.devices()[:1])


def test_more_than_pairs_trains_where_it_is_said():
    trained = {path[-1] for path in run_of(trains=("lora", "blocks/modulation")).plan.trained}
    assert trained == {"kernel", "modulation"}


def test_the_section_comes_back_complete():
    written = complete(config())
    assert written["lora"] == {"targets": ["to_q", "to_v", "ffn"], "rank": 2, "alpha": 4.0, "rank_stabilised": False}
    assert complete(written) == written
    assert complete(config_of("wan", {"data": 1}))["lora"] is None


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"targets": ("to_w",)}, "config.lora.targets: no parameter matches 'to_w'; .*did you mean 'to_v'"),
        ({"targets": ("to_q",), "rank": 0}, "config.lora.rank: 0 must be 1 or more"),
        ({"target": ("to_q",)}, "config.lora.target: unknown 'target'; did you mean 'targets'"),
        ({"rank": 4}, "config.lora.targets: missing"),
    ],
)
def test_wrong_sections_are_refused(lora, message):
    with pytest.raises(ValueError, match=message):
        run_of(lora)
