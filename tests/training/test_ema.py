import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.training.ema import EMAConfig, decay_at, ema_name, update_emas


def test_several_averages_follow_the_formula():
    config = EMAConfig((0.5, 0.9), warmup=False)
    rng = np.random.default_rng(0)
    history = rng.normal(size=(6, 3)).astype(np.float32)
    emas = {ema_name(d): {"w": jnp.asarray(history[0])} for d in config.decays}
    want = {ema_name(d): history[0].astype(np.float64) for d in config.decays}
    for step, w in enumerate(history[1:]):
        emas = update_emas(config, emas, {"w": jnp.asarray(w)}, step)
        want = {name: float(name) * e + (1 - float(name)) * w for name, e in want.items()}
    for name, e in want.items():
        np.testing.assert_allclose(emas[name]["w"], e, rtol=1e-5)


def test_warmup_is_low_first_and_never_above_the_decay():
    decays = np.array([float(decay_at(0.99, n, True)) for n in range(2000)])
    np.testing.assert_allclose(decays[:3], [1 / 10, 2 / 11, 3 / 12], rtol=1e-6)
    assert (np.diff(decays) >= 0).all()
    np.testing.assert_allclose(decays[-1], 0.99, rtol=1e-6)
    assert float(decay_at(0.99, 0, False)) == np.float32(0.99)


def test_weights_that_stand_still_keep_their_bits():
    w = jnp.asarray(np.random.default_rng(0).normal(size=100), jnp.float32)
    config = EMAConfig((0.999,))
    new = update_emas(config, {"0.999": {"w": w}}, {"w": w}, 3)
    assert (np.asarray(new["0.999"]["w"]) == np.asarray(w)).all()


def test_averages_stay_float32():
    new = update_emas(EMAConfig((0.9,)), {"0.9": {"w": jnp.zeros(2)}}, {"w": jnp.ones(2, jnp.bfloat16)}, 0)
    assert new["0.9"]["w"].dtype == jnp.float32


@pytest.mark.parametrize(("decay", "name"), [(0.999, "0.999"), (0.9999, "0.9999"), (0.5, "0.5")])
def test_names_are_the_decays(decay, name):
    assert ema_name(decay) == name


@pytest.mark.parametrize("decays", [(1.0,), (0.0,), (0.9, 0.9)])
def test_config_refuses_what_is_no_set_of_decays(decays):
    with pytest.raises(ValueError, match="decays: "):
        EMAConfig(decays)
