import jax
import numpy as np
import pytest
from scipy import stats

from vdm_jax.diffusion.time_sampling import LogitNormal, LogNormal, Uniform


def draws(sampler, batch=4096, frames=3):
    return np.asarray(sampler.sample(jax.random.key(0), batch, frames))


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("independent", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    ("sampler", "law"),
    [
        (Uniform, stats.uniform.cdf),
        (LogitNormal, lambda u: stats.norm.cdf(np.log(u) - np.log1p(-u))),
        (LogNormal, stats.norm(-1.2, 1.2).cdf),
    ],
)
def test_each_frame_has_the_stated_distribution(sampler, law, independent, stratified):
    t = draws(sampler(independent=independent, stratified=stratified))
    for frame in range(3):
        assert stats.kstest(t[:, frame], law).statistic < 0.035


def test_shared_times_are_shared_and_independent_ones_are_not():
    shared, own = draws(Uniform()), draws(Uniform(independent=1.0))
    assert (shared == shared[:, :1]).all()
    assert abs(np.corrcoef(own.T) - np.eye(3)).max() < 0.05


def test_mixture_draws_independent_clips_with_its_probability():
    t = draws(Uniform(independent=0.2))
    alike = (t == t[:, :1]).all(axis=1)
    assert abs(alike.mean() - 0.8) < 0.03


@pytest.mark.parametrize("independent", [0.0, 1.0])
def test_stratified_batches_put_one_draw_in_each_stratum(independent):
    t = draws(Uniform(independent=independent), batch=16)
    for frame in range(3):
        assert sorted(np.floor(t[:, frame] * 16).astype(int)) == list(range(16))
    assert (np.diff(t[:, 0]) < 0).any(), "strata must come in random order"


def test_stratified_mean_varies_less():
    def spread(stratified):
        sampler = Uniform(stratified=stratified)
        sample = jax.jit(lambda key: sampler.sample(key, 8, 1).mean())
        return np.std([float(sample(jax.random.key(i))) for i in range(50)])

    assert spread(True) < 0.25 * spread(False)


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: Uniform(independent=1.5), "independent"),
        (lambda: LogitNormal(std=0.0), "std"),
        (lambda: LogNormal(std=-1.0), "std"),
    ],
)
def test_bad_values_are_named(build, field):
    with pytest.raises(ValueError, match=f"^{field}:"):
        build()
