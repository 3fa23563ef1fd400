import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.training.tiny_run import make_networks
from vdm_jax.training.optimizer import OptimizerConfig, clip_scale, decays, make_learning_rate, make_optimizer
from vdm_jax.training.state import define

NAMES = {
    "a": {"kernel": (2, 3), "bias": (3,)},
    "blocks": {"table": (2, 4), "kernel": (2, 4, 6), "norm": {"scale": (2, 4)}},
}
AXES = {
    "a": {"kernel": ("embed", "mlp"), "bias": None},
    "blocks": {
        "table": ("layers", "embed"),
        "kernel": ("layers", "embed", "mlp"),
        "norm": {"scale": ("layers", "norm")},
    },
}


def tree_of(fill):
    leaves, structure = jax.tree.flatten(NAMES, is_leaf=lambda x: isinstance(x, tuple))
    return jax.tree.unflatten(structure, [fill(i, shape) for i, shape in enumerate(leaves)])


PARAMS = tree_of(lambda i, shape: jax.random.normal(jax.random.key(i), shape))
GRADS = tree_of(lambda i, shape: jax.random.normal(jax.random.key(100 + i), shape))


def run(config, steps, learning_rate):
    optimizer, params = make_optimizer(config, AXES), PARAMS
    state = optimizer.init(params)
    for step in range(steps):
        updates, state = optimizer.update(GRADS, state, params)
        params = jax.tree.map(lambda p, u: p + learning_rate(step) * u, params, updates)  # noqa: B023 (used at once)
    return params


def test_only_matrices_decay():
    flags = decays(PARAMS)
    assert flags == {
        "a": {"kernel": True, "bias": False},
        "blocks": {"table": False, "kernel": True, "norm": {"scale": False}},
    }


def test_decay_patterns_of_a_real_network():
    flags = jax.tree_util.tree_leaves_with_path(decays(define(make_networks).abstract))
    assert {str(path[-1].key) for path, flag in flags if flag} == {"kernel"}
    assert {str(path[-1].key) for path, flag in flags if not flag} == {"scale", "bias"}


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
def test_adamw_is_that_of_optax_with_the_schedule_inside(schedule):
    config = OptimizerConfig(schedule=schedule, learning_rate=0.1, warmup=3, weight_decay=0.3)
    rate = make_learning_rate(config, 10)
    reference = optax.adamw(
        rate, b1=config.beta1, b2=config.beta2, eps=config.eps, weight_decay=0.3, mask=decays(PARAMS)
    )
    params, state = PARAMS, reference.init(PARAMS)
    for _ in range(6):
        updates, state = reference.update(GRADS, state, params)
        params = optax.apply_updates(params, updates)
    for a, b in zip(jax.tree.leaves(run(config, 6, rate)), jax.tree.leaves(params)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_zero_gradients_leave_only_the_decay():
    config = OptimizerConfig(weight_decay=0.5)
    optimizer = make_optimizer(config, AXES)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, GRADS), optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["a"]["kernel"], -0.5 * PARAMS["a"]["kernel"], rtol=1e-6)
    assert not updates["a"]["bias"].any()
    assert not updates["blocks"]["table"].any()


def test_muon_orthogonalises_each_layer_and_nothing_else():
    config = OptimizerConfig(kind="muon", weight_decay=0.0)
    optimizer = make_optimizer(config, AXES)
    updates, _ = optimizer.update(GRADS, optimizer.init(PARAMS), PARAMS)
    for layer in range(2):
        values = np.linalg.svd(np.asarray(updates["blocks"]["kernel"][layer]), compute_uv=False)
        # An orthogonal update of AdamW's size has singular values 0.2 sqrt(max(in, out)); Newton-Schulz stops near it.
        np.testing.assert_allclose(values, 0.2 * np.sqrt(6), rtol=0.35)
    # Adam's first update is the sign of the gradient.
    np.testing.assert_allclose(updates["a"]["kernel"], -np.sign(GRADS["a"]["kernel"]), rtol=1e-3)
    np.testing.assert_allclose(updates["blocks"]["table"], -np.sign(GRADS["blocks"]["table"]), rtol=1e-3)


def test_muon_layers_do_not_mix():
    config = OptimizerConfig(kind="muon", weight_decay=0.0)
    optimizer = make_optimizer(config, AXES)
    other = jax.tree.map(lambda g: g, GRADS)
    other["blocks"]["kernel"] = other["blocks"]["kernel"].at[1].multiply(-3.0)
    a, _ = optimizer.update(GRADS, optimizer.init(PARAMS), PARAMS)
    b, _ = optimizer.update(other, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(a["blocks"]["kernel"][0], b["blocks"]["kernel"][0], rtol=1e-6)


def test_muon_decays_like_adamw():
    config = OptimizerConfig(kind="muon", weight_decay=0.5)
    optimizer = make_optimizer(config, AXES)
    still = jax.tree.map(jnp.zeros_like, GRADS)
    updates, _ = optimizer.update(still, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["blocks"]["kernel"], -0.5 * PARAMS["blocks"]["kernel"], atol=1e-6)
    assert not updates["blocks"]["table"].any()


def test_clip_scale_bounds_the_norm():
    assert clip_scale(jnp.float32(0.5), 1.0) == 1.0
    np.testing.assert_allclose(clip_scale(jnp.float32(4.0), 1.0) * 4.0, 1.0)
    assert clip_scale(jnp.float32(4.0), None) == 1.0


@pytest.mark.parametrize(("fields", "message"), [
    ({"kind": "adam"}, "kind: unknown 'adam'; did you mean 'adamw'"),
    ({"schedule": "cosin"}, "schedule: unknown 'cosin'; did you mean 'cosine'"),
    ({"learning_rate": 0.0}, "learning_rate: 0.0 must be above 0"),
    ({"beta2": 1.0}, r"beta2: 1.0 must be in \[0, 1\)"),
    ({"warmup": -1}, "warmup: -1"),
    ({"final": 2.0}, "final: 2.0"),
    ({"clip_norm": 0.0}, "clip_norm: 0.0"),
])  # fmt: skip
def test_config_names_what_is_wrong(fields, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**fields)
