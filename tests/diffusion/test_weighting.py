import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion import EDM, VP, RectifiedFlow
from vdm_jax.diffusion.predictions import error_factor
from vdm_jax.diffusion.weighting import EDMWeighting, MinSNR, Sigmoid, Uniform

NO_CLIP = 1e9
TIMES = jnp.linspace(0.05, 0.95, 19)


def weightings(clip):
    spaces = [Uniform(space=space, clip=clip) for space in ("x0", "eps", "v", "velocity")]
    return [*spaces, MinSNR(clip=clip), Sigmoid(clip=clip), EDMWeighting(clip=clip)]


@pytest.mark.parametrize("weighting", weightings(NO_CLIP), ids=str)
def test_a_weighting_means_the_same_for_every_prediction(weighting):
    """The weighted squared error of one and the same mistake must not depend on what the network predicts."""
    for family, predictions in ((RectifiedFlow, ("velocity", "x0", "eps")), (VP, ("v", "x0", "eps"))):
        losses = []
        for prediction in predictions:
            process = family(prediction=prediction, weighting=weighting)
            alpha, sigma = process.alpha_sigma(TIMES)
            output_error = 0.1 * error_factor("x0", prediction, alpha, sigma)
            losses.append(process.weight(TIMES) * output_error**2)
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
        np.testing.assert_allclose(losses[2], losses[0], rtol=1e-4)


def test_edm_weighting_is_plain_mse_on_the_scaled_output():
    process = EDM(weighting=EDMWeighting(sigma_data=0.5))
    np.testing.assert_allclose(process.weight(jnp.array([0.002, 0.1, 1.0, 80.0])), 1.0, rtol=1e-4)


def test_min_snr_has_its_published_forms():
    t = VP().time_from_log_ratio(-0.5 * jnp.log(jnp.array([0.1, 1.0, 4.0, 50.0])))
    alpha, sigma = VP().alpha_sigma(t)
    snr = np.asarray((alpha / sigma) ** 2)
    assert snr[0] < 1.0
    assert snr[-1] > 5.0
    forms = {"x0": np.minimum(snr, 5), "eps": np.minimum(snr, 5) / snr, "v": np.minimum(snr, 5) / (snr + 1)}
    for prediction, form in forms.items():
        process = VP(prediction=prediction, weighting=MinSNR(gamma=5.0))
        np.testing.assert_allclose(process.weight(t), form, rtol=1e-5)


def test_x0_prediction_under_a_velocity_loss_is_clipped_at_small_t():
    process = RectifiedFlow(prediction="x0", weighting=Uniform(space="velocity"))
    t = jnp.array([0.0, 0.01, 0.05, 0.1, 0.5, 1.0])
    np.testing.assert_allclose(process.weight(t), 1.0 / np.maximum(t, 0.05) ** 2, rtol=1e-5)


@pytest.mark.parametrize("weighting", weightings(400.0), ids=str)
@pytest.mark.parametrize(
    "process",
    [
        RectifiedFlow(),
        RectifiedFlow(prediction="x0"),
        RectifiedFlow(prediction="eps"),
        VP(prediction="eps"),
        VP(zero_terminal_snr=True),
        EDM(),
    ],
    ids=lambda p: f"{type(p).__name__}-{getattr(p, 'prediction', 'F')}",
)
def test_weights_are_finite_and_bounded_at_both_ends(process, weighting):
    process = type(process)(**{**vars(process), "weighting": weighting})
    weight = process.weight(jnp.array([[0.0, 1e-6, process.t_max]]))
    assert weight.shape == (1, 3)
    assert np.isfinite(weight).all()
    assert (weight >= 0).all()
    assert (weight <= 400.0).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Uniform(space="velocitty"), "space: .*did you mean 'velocity'"),
        (lambda: MinSNR(gamma=0.0), "gamma"),
        (lambda: Uniform(clip=-1.0), "clip"),
        (lambda: EDMWeighting(sigma_data=0.0), "sigma_data"),
    ],
)
def test_bad_values_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
