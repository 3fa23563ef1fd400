"""Metrics: averages are right, reading is late by one step, and a window survives a checkpoint exactly."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.training.metrics import Average, LateMetrics, as_averages, compute, merge

LOSSES = [float(x) for x in np.random.default_rng(0).normal(size=7).astype(np.float32)]


def device(value: float) -> dict:
    return {"loss": jax.device_put(np.float32(value))}


def test_a_reading_comes_one_step_late():
    late = LateMetrics()
    assert late.push(1, device(LOSSES[0])) is None
    for step, loss in enumerate(LOSSES[1:], start=2):
        reading = late.push(step, device(loss))
        assert (reading.step, reading.values, reading.window) == (step - 1, {"loss": LOSSES[step - 2]}, None)
    last = late.flush()
    assert (last.step, last.values) == (len(LOSSES), {"loss": LOSSES[-1]})
    assert late.flush() is None


def test_a_window_is_the_mean_since_the_last_one():
    late = LateMetrics()
    for step, loss in enumerate(LOSSES, start=1):
        late.push(step, device(loss), close_window=step in (3, 7))
    assert late.flush().window == pytest.approx({"loss": np.mean(LOSSES[3:])}, abs=1e-6)


def test_the_window_is_given_out_with_the_step_that_closed_it():
    late = LateMetrics()
    late.push(1, device(1.0))
    late.push(2, device(3.0), close_window=True)
    reading = late.push(3, device(100.0))
    assert (reading.step, reading.window) == (2, {"loss": 2.0})


@pytest.mark.parametrize("cut", range(1, 7))
def test_a_window_goes_on_bit_for_bit_from_its_saved_state(cut):
    def windows(late, first):
        out = []
        for step in range(first, len(LOSSES) + 1):
            reading = late.push(step, device(LOSSES[step - 1]), close_window=step in (4, 7))
            out.append(reading)
        out.append(late.flush())
        return [(r.step, r.values, r.window) for r in out if r and r.step > cut]

    whole = windows(LateMetrics(), 1)
    part = LateMetrics()
    for step in range(1, cut + 1):
        part.push(step, device(LOSSES[step - 1]), close_window=step in (4, 7))
    part.flush()
    resumed = LateMetrics(json.loads(json.dumps(part.window_state())))
    assert windows(resumed, cut + 1) == whole


def test_the_state_of_a_restored_window_that_saw_no_step_is_the_same():
    state = {"loss": [1.5, 3.0]}
    assert LateMetrics(state).window_state() == state
    assert LateMetrics().window_state() == {}


def test_a_restored_window_lives_where_the_metrics_live():
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    everywhere = jax.sharding.NamedSharding(mesh, jax.P())
    late = LateMetrics({"loss": [1.5, 3.0]})
    late.push(4, {"loss": jax.device_put(np.float32(2.5), everywhere)}, close_window=True)
    assert late.flush().window == {"loss": 1.0}


def test_averages_over_a_varying_count():
    """The loss of one noise band: no clip of a batch may fall into it, and it must not count as zero then."""
    band = jax.jit(lambda losses, inside: {"band": Average.from_model_output(losses, mask=inside)})
    late = LateMetrics()
    late.push(1, band(jnp.array([1.0, 2.0, 9.0]), jnp.array([True, True, False])))
    late.push(2, band(jnp.array([9.0, 9.0, 9.0]), jnp.array([False, False, False])))
    late.push(3, band(jnp.array([9.0, 6.0, 9.0]), jnp.array([False, True, False])), close_window=True)
    assert late.flush().window == {"band": 3.0}


def test_merging_is_the_average_of_all():
    values = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    windows = [as_averages({"a": v[0], "b": v[1]}) for v in values]
    merged = windows[0]
    for window in windows[1:]:
        merged = merge(merged, window)
    found = compute(merged)
    np.testing.assert_allclose([found["a"], found["b"]], values[:, :2].mean(0), rtol=1e-6)


def test_steps_must_return_the_same_metrics():
    late = LateMetrics()
    late.push(1, device(1.0))
    with pytest.raises(ValueError, match=r"returned \['other'\] after one that returned \['loss'\]"):
        late.push(2, {"other": jnp.float32(1.0)})


def test_nothing_is_copied_behind_ones_back():
    values = [device(x) for x in LOSSES[:4]]
    with jax.transfer_guard("disallow"):
        late = LateMetrics({"loss": [1.0, 2.0]})
        for step, value in enumerate(values, start=1):
            late.push(step, value, close_window=step == 2)
            late.in_flight()
        assert late.flush().step == 4
        late.window_state()


def test_in_flight_tells_whether_the_device_is_busy():
    late = LateMetrics()
    assert not late.in_flight()
    late.push(1, device(1.0))
    late.flush()
    assert not late.in_flight()
