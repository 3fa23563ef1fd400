import numpy as np
import pytest

from vdm_jax.training.schedule import SCHEDULES, make_schedule

STEPS, WARMUP, PEAK, FINAL = 100, 10, 0.5, 0.1


def values(kind, final=FINAL):
    schedule = make_schedule(kind, PEAK, WARMUP, STEPS, final, 0.2)
    return np.array([float(schedule(n)) for n in range(STEPS + 20)])


@pytest.mark.parametrize("kind", SCHEDULES)
def test_every_schedule_warms_up_in_even_steps_to_the_peak(kind):
    rates = values(kind)
    np.testing.assert_allclose(rates[:WARMUP], PEAK * np.arange(1, WARMUP + 1) / WARMUP, rtol=1e-5)
    np.testing.assert_allclose(rates.max(), PEAK, rtol=1e-6)
    assert (np.diff(rates[WARMUP:]) <= 1e-7).all()


def test_cosine_is_the_cosine():
    n = np.arange(WARMUP, STEPS + 1)
    want = PEAK * (FINAL + (1 - FINAL) * (1 + np.cos(np.pi * (n - WARMUP) / (STEPS - WARMUP))) / 2)
    np.testing.assert_allclose(values("cosine")[WARMUP : STEPS + 1], want, rtol=1e-4)


def test_wsd_is_flat_then_a_line_to_the_end():
    rates = values("wsd")
    np.testing.assert_allclose(rates[WARMUP:81], PEAK, rtol=1e-6)
    np.testing.assert_allclose(np.diff(rates[80:101]), -PEAK * (1 - FINAL) / 20, rtol=1e-4)


@pytest.mark.parametrize(("kind", "last"), [("constant", PEAK), ("cosine", PEAK * FINAL), ("wsd", PEAK * FINAL)])
def test_the_last_value_holds_after_the_end(kind, last):
    np.testing.assert_allclose(values(kind)[STEPS:], last, rtol=1e-5)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_runs_shorter_than_their_warmup_stay_finite(kind):
    schedule = make_schedule(kind, PEAK, 50, 20, 0.0, 0.2)
    rates = np.array([float(schedule(n)) for n in range(20)])
    assert np.isfinite(rates).all()
    assert (rates >= 0).all()
