import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tests.adapters.every import DIT, QUICK, UNET, awake, inputs, maker
from vdm_jax.adapters.taps import tapped
from vdm_jax.nn.taps import Write, sites, tapping
from vdm_jax.training.state import define

REMAT = DIT.__class__(**{**vars(DIT), "depth": 3, "remat": "full"})
UNET_REMAT = UNET.__class__(**{**vars(UNET), "remat": "full"})


def with_taps(config, *patterns):
    """Definitions of a network with taps, and parameters of which none says nothing."""
    found = define(maker(config, lambda network, rngs: tapped(network, *patterns)))
    return found, awake(found.abstract)


def run(definitions, params, writes=None, reads=True):
    """The output and what was seen."""
    network = definitions.merge(params)["backbone"]
    if not reads:
        return network(*inputs(network)), {}
    with tapping(network, writes) as seen:
        output = network(*inputs(network))
    return output, dict(seen)


def compiled(function, *args):
    return jax.jit(function).lower(*args).compile(compiler_options=QUICK)(*args)


@pytest.mark.parametrize(("config", "pattern", "count", "shape"), [
    (DIT, "units/temporal", 1, (2, 2, 3, 1, 16)),
    (REMAT, "units/temporal", 1, (3, 2, 3, 1, 16)),
    (UNET_REMAT, "units/space", 4, (1, 2, 3, 16, 8)),
])  # fmt: skip
def test_a_tap_reads_and_changes_neither_paths_nor_output(config, pattern, count, shape):
    tap, params = with_taps(config, pattern)
    plain = define(maker(config))
    assert flatten_dict(plain.abstract).keys() == flatten_dict(tap.abstract).keys()
    output, seen = compiled(lambda params: run(tap, params), params)
    assert len(seen) == count
    assert {value.shape for value in seen.values()} == {shape}
    assert all(np.ptp(row) > 0 for value in seen.values() for row in value)
    expected, _ = compiled(lambda params: run(plain, params, reads=False), params)
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


def test_nobody_reading_is_the_same_program():
    tap, params = with_taps(DIT, "attention", "mlp:in")
    plain = define(maker(DIT))
    texts = [jax.jit(lambda p: run(d, p, reads=False)[0]).lower(params).as_text() for d in (plain, tap)]  # noqa: B023
    assert texts[0] == texts[1]


def test_what_is_written_reaches_each_layer_by_itself():
    """What all layers gave for one set of weights, put into a network of others, makes the first one's output."""
    tap, params = with_taps(REMAT, "units/spatial:in", "units/temporal")
    others = awake(tap.abstract, seed=1)
    kept = {name: own for name, own in params["backbone"].items() if name in ("patch_out", "final_modulation", "time")}
    others = {"backbone": others["backbone"] | kept}

    def both(params, others):
        output, seen = run(tap, params)
        writes = {name: Write(lambda value, mine: mine, value) for name, value in seen.items()}
        changed, before = run(tap, others, writes)
        return output, changed, seen, before

    output, changed, seen, before = compiled(both, params, others)
    np.testing.assert_allclose(changed, output, rtol=1e-5, atol=1e-6)
    assert not np.allclose(seen["units/temporal"], before["units/temporal"], atol=1e-2)  # as the layer made it


def test_gradients_flow_through_what_is_read():
    tap, params = with_taps(REMAT, "units/temporal")

    def loss(params):
        return jnp.square(run(tap, params)[1]["units/temporal"][1]).mean()  # behind the second of three layers

    grads = compiled(jax.grad(loss), params)["backbone"]
    sizes = jnp.abs(grads["units"]["temporal"]["attention"]["qkv"]["kernel"]).max(axis=(1, 2, 3, 4))
    assert sizes[0] > 0
    assert sizes[1] > 0
    assert sizes[2] == 0


@pytest.mark.parametrize(("patterns", "message"), [
    (("temporl",), "taps: no layer matches 'temporl'; .*temporal"),
    (("temporal", "units/temporal:in"), "units/temporal is chosen twice"),
])  # fmt: skip
def test_layers_that_cannot_be_chosen_are_named(patterns, message):
    with pytest.raises(ValueError, match=message):
        with_taps(DIT, *patterns)


def test_calls_that_miss_a_tap_are_errors():
    tap, params = with_taps(DIT, "units/temporal")
    network = tap.merge(params)["backbone"]
    assert sites(network) == ["units/temporal"]
    with pytest.raises(ValueError, match="'units/temporal' was not come by"), tapping(network):
        pass
    with pytest.raises(ValueError, match="writes: unknown 'units/temporl'"), tapping(network, {"units/temporl": None}):
        pass
    with pytest.raises(ValueError, match="the DiT has none"), tapping(define(maker(DIT)).merge(params)["backbone"]):
        pass

    def abstract(function):
        return jax.eval_shape(function, params)

    with pytest.raises(ValueError, match="come by twice"):
        abstract(lambda params: _twice(tap, params))
    with pytest.raises(ValueError, match=r"'units/temporal' makes float32\[2, 3, 1\] of float32\[2, 3, 1, 16\]"):
        abstract(lambda params: run(tap, params, {"units/temporal": Write(lambda value, _: value[..., 0])})[0])


def _twice(definitions, params):
    network = definitions.merge(params)["backbone"]
    with tapping(network):
        return network(*inputs(network)) + network(*inputs(network))
