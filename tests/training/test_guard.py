import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.errors import RunError
from vdm_jax.training.guard import GuardConfig, accepts, check_skips, count, init_guard, keep_if

NAN, INF = jnp.float32(np.nan), jnp.float32(np.inf)
ONE = jnp.float32(1.0)


def feed(config, norms):
    state, skipped = init_guard(config), []
    for norm in norms:
        norm = jnp.float32(norm)
        accepted = accepts(config, state, ONE, norm)
        state = count(config, state, accepted, norm)
        skipped.append(not accepted)
    return state, skipped


@pytest.mark.parametrize(("loss", "norm", "accepted"), [
    (ONE, ONE, True), (NAN, ONE, False), (ONE, NAN, False), (INF, ONE, False), (ONE, -INF, False),
])  # fmt: skip
def test_only_finite_updates_pass(loss, norm, accepted):
    config = GuardConfig()
    assert bool(accepts(config, init_guard(config), loss, norm)) == accepted


def test_counters_count_in_all_and_in_a_row():
    state, skipped = feed(GuardConfig(), [1, np.nan, np.inf, 1, np.nan])
    assert skipped == [False, True, True, False, True]
    assert (int(state["skipped"]), int(state["consecutive"])) == (3, 1)


def test_spikes_pass_by_default():
    assert feed(GuardConfig(), [1, 1.1] * 100 + [1e6])[1][-1] is False


def test_a_spike_is_judged_by_the_window_it_does_not_enter():
    config = GuardConfig(spike_sigma=4.0, window=8)
    quiet = list(np.random.default_rng(0).uniform(0.9, 1.1, 16))
    state, skipped = feed(config, [*quiet, 5.0, 5.0, 1.0])
    assert skipped == [False] * 16 + [True, True, False]
    assert float(state["norms"].max()) < 2
    assert int(state["accepted"]) == 17


def test_nothing_is_a_spike_before_the_window_is_full():
    assert not any(feed(GuardConfig(spike_sigma=1.0, window=8), [1.0, 100.0, 1e4, 1e6])[1])


def test_keep_if_selects_bits():
    new, old = {"a": jnp.float32([np.nan, 1])}, {"a": jnp.float32([-0.0, 2])}
    kept = jax.jit(keep_if)(jnp.bool_(False), new, old)
    assert np.asarray(kept["a"]).tobytes() == np.asarray(old["a"]).tobytes()


def test_a_diverged_run_is_stopped_in_one_line():
    config = GuardConfig(max_consecutive=3)
    check_skips(config, 9, {"skipped": 50.0, "skipped_in_a_row": 2.0, "loss": 1.0})
    with pytest.raises(RunError, match="step 9: 3 updates in a row were skipped") as error:
        check_skips(config, 9, {"skipped_in_a_row": 3.0})
    assert "\n" not in str(error.value)
    with pytest.raises(RunError, match="of 'critic'"):
        check_skips(config, 9, {"student/skipped_in_a_row": 0.0, "critic/skipped_in_a_row": 4.0})


@pytest.mark.parametrize("fields", [{"max_consecutive": 0}, {"spike_sigma": 0.0}, {"window": 1}])
def test_config_names_the_field(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        GuardConfig(**fields)
