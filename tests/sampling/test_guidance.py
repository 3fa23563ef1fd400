import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion import RectifiedFlow
from vdm_jax.diffusion.leaves import expand
from vdm_jax.sampling import guided, guided_nested, make_denoiser

NULL = {"tokens": jnp.zeros((1, 3, 2)), "tokens_mask": jnp.zeros((1, 3), bool), "vector.label": -1.0}


@pytest.fixture(scope="module")
def cond():
    return {
        "tokens": jax.random.normal(jax.random.key(0), (2, 3, 2)),
        "tokens_mask": jnp.ones((2, 3), bool),
        "vector": {"label": jnp.array([3.0, 5.0]), "fps": jnp.array([8.0, 24.0])},
    }


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(1), (2, 4, 5))


def denoiser(x, t, cond):
    """Depends on every condition, on t and on x."""
    text = (cond["tokens"].sum((1, 2)) + cond["tokens_mask"].sum(1))[:, None]
    shift = text + cond["vector"]["label"][:, None] + 0.1 * cond["vector"]["fps"][:, None]
    return jax.tree.map(lambda leaf: jnp.tanh(leaf + expand(shift * t, leaf)), x)


def without(cond, *keys):
    new = dict(cond, vector=dict(cond["vector"]))
    if "tokens" in keys:
        new["tokens"], new["tokens_mask"] = jnp.zeros((2, 3, 2)), jnp.zeros((2, 3), bool)
    if "vector.label" in keys:
        new["vector"]["label"] = jnp.full(2, -1.0)
    return new


def test_guidance_is_the_formula_in_one_doubled_call(cond, x):
    batches = []

    def counting(x, t, cond):
        batches.append((x.shape[0], t.shape[0], cond["vector"]["fps"].shape[0]))
        return denoiser(x, t, cond)

    t = jnp.full((2, 4), 0.3)
    got = guided(counting, 3.0, NULL)(x, 0.3, cond)
    with_cond, no_cond = denoiser(x, t, cond), denoiser(x, t, without(cond, "tokens", "vector.label"))
    np.testing.assert_allclose(got, no_cond + 3.0 * (with_cond - no_cond), rtol=1e-5, atol=1e-5)
    assert batches == [(4, 4, 4)]


def test_scale_one_is_the_conditional_model_and_zero_the_unconditional_one(cond, x):
    t = jnp.full((2, 4), 0.3)
    np.testing.assert_array_equal(guided(denoiser, 1.0, NULL)(x, t, cond), denoiser(x, t, cond))
    np.testing.assert_allclose(guided(denoiser, jnp.float32(1.0), NULL)(x, t, cond), denoiser(x, t, cond), atol=1e-6)
    no_cond = denoiser(x, t, without(cond, "tokens", "vector.label"))
    np.testing.assert_array_equal(guided(denoiser, 0.0, NULL)(x, t, cond), no_cond)


def test_a_scale_per_frame_acts_per_frame(cond, x):
    ramp = guided(denoiser, jnp.linspace(1.0, 4.0, 4), NULL)(x, 0.3, cond)
    for i, w in enumerate(np.linspace(1.0, 4.0, 4)):
        np.testing.assert_allclose(ramp[:, i], guided(denoiser, w, NULL)(x, 0.3, cond)[:, i], rtol=1e-5, atol=1e-6)
    flat = guided(denoiser, jnp.full(4, 2.0), NULL)(x, 0.3, cond)
    np.testing.assert_array_equal(flat, guided(denoiser, 2.0, NULL)(x, 0.3, cond))


def test_guidance_in_x0_space_is_guidance_of_the_velocity(cond, x):
    process = RectifiedFlow()

    def network(x, time, cond):
        return denoiser(x, time / 1000.0, cond)

    t = jnp.full((2, 4), 0.3)
    got = guided(make_denoiser(process, network), 2.5, NULL)(x, t, cond)
    yes, no = denoiser(x, t, cond), denoiser(x, t, without(cond, "tokens", "vector.label"))
    np.testing.assert_allclose(got, process.belief(no + 2.5 * (yes - no), x, t), rtol=1e-4, atol=1e-5)


def test_nested_conditions_are_switched_on_in_order(cond, x):
    t = jnp.full((2, 4), 0.3)
    got = guided_nested(denoiser, [(["vector.label"], 1.5), (["tokens"], 4.0)], NULL)(x, t, cond)
    none, label, full = (denoiser(x, t, without(cond, *k)) for k in (("tokens", "vector.label"), ("tokens",), ()))
    np.testing.assert_allclose(got, none + 1.5 * (label - none) + 4.0 * (full - label), rtol=1e-5, atol=1e-5)


def test_equal_nested_scales_are_plain_guidance(cond, x):
    nested = guided_nested(denoiser, [(["tokens"], 3.0), (["vector.label"], 3.0)], NULL)(x, 0.3, cond)
    np.testing.assert_allclose(nested, guided(denoiser, 3.0, NULL)(x, 0.3, cond), rtol=1e-4, atol=1e-5)


def test_rescale_gives_back_the_conditional_spread(cond, x):
    full = guided(denoiser, 6.0, NULL, rescale=1.0)(x, 0.3, cond)
    plain = denoiser(x, jnp.full((2, 4), 0.3), cond)
    np.testing.assert_allclose(full.std(axis=(1, 2)), plain.std(axis=(1, 2)), rtol=1e-4)
    raw = guided(denoiser, 6.0, NULL)(x, 0.3, cond)
    half = guided(denoiser, 6.0, NULL, rescale=0.5)(x, 0.3, cond)
    np.testing.assert_allclose(half, 0.5 * (raw + full), rtol=1e-5, atol=1e-6)


def test_dicts_of_leaves_are_guided_leaf_by_leaf(cond, x):
    both = guided(denoiser, 3.0, NULL)({"video": x[..., None], "audio": x}, 0.3, cond)
    np.testing.assert_allclose(both["audio"], guided(denoiser, 3.0, NULL)(x, 0.3, cond), rtol=1e-6)
    np.testing.assert_allclose(both["video"][..., 0], both["audio"], rtol=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: guided(denoiser, 2.0, {}), "names no condition"),
        (lambda: guided(denoiser, 2.0, NULL, rescale=1.5), "rescale: 1.5"),
        (lambda: guided_nested(denoiser, [(["token"], 2.0)], NULL), "did you mean 'tokens'"),
        (lambda: guided_nested(denoiser, [(["tokens"], 2.0)], NULL), "'vector.label' .* in no term"),
        (lambda: guided_nested(denoiser, [(["tokens"], 2.0), (["tokens"], 1.0)], NULL), "two terms"),
    ],
)
def test_bad_requests_are_refused_when_built(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_wrong_scale_and_absent_condition_are_named(cond, x):
    with pytest.raises(ValueError, match=r"scale: shape \(3,\)"):
        guided(denoiser, jnp.ones(3), NULL)(x, 0.3, cond)
    with pytest.raises(ValueError, match="null.hint"):
        guided(denoiser, 2.0, {"hint": 0.0})(x, 0.3, cond)
