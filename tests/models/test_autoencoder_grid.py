"""What can be represented, and what is said of all else; posteriors and the scale of latents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny_autoencoders import CONFIGS, make
from vdm_jax.models.autoencoders import CogVideoXConfig, KLConfig, Posterior, Scale, TemporalDecoderConfig, WanConfig

GRIDS = {
    "wan": WanConfig().grid,
    "wan 2.2": WanConfig(patch=2, shortcuts=True).grid,
    "cogvideox": CogVideoXConfig().grid,
    "kl": KLConfig().grid,
    "temporal": TemporalDecoderConfig().grid,
}


@pytest.mark.parametrize(
    ("name", "frames", "nearest"),
    [("wan", 80, "77 or 81"), ("wan", 2, "1 or 5"), ("cogvideox", 50, "49 or 56"), ("cogvideox", 4, "1 or 8"),
     ("kl", 0, "1"), ("wan 2.2", 120, "117 or 121")],
)  # fmt: skip
def test_other_frame_counts_are_refused_with_the_nearest(name, frames, nearest):
    with pytest.raises(ValueError, match=f"{frames} frames cannot be represented; the nearest that can: {nearest}$"):
        GRIDS[name].check_clip((1, frames, 64, 64, 3))


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [("wan", (484, 832), "484 height .* 480 or 488"), ("wan 2.2", (720, 1272), "1272 width .* 1264 or 1280"),
     ("kl", (4, 8), "4 height .* 8$")],
)  # fmt: skip
def test_other_sizes_are_refused_with_the_nearest(name, size, message):
    with pytest.raises(ValueError, match=message):
        GRIDS[name].check_clip((1, 1, *size, 3))


def test_a_chunk_that_goes_on_holds_whole_groups():
    GRIDS["wan"].check_clip((1, 8, 64, 64, 3), continued=True)
    with pytest.raises(ValueError, match="9 frames cannot be represented; the nearest that can: 8 or 12"):
        GRIDS["wan"].check_clip((1, 9, 64, 64, 3), continued=True)


@pytest.mark.parametrize(
    ("name", "frames", "latents"),
    [("wan", 81, 21), ("wan", 1, 1), ("cogvideox", 49, 13), ("cogvideox", 48, 12), ("cogvideox", 1, 1), ("kl", 7, 7)],
)
def test_frames_and_latent_frames(name, frames, latents):
    GRIDS[name].check_clip((1, frames, 64, 64, 3))
    assert GRIDS[name].latent_frames(frames) == latents
    assert GRIDS[name].clip_frames(latents) == frames


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes_are_those_of_the_grid(name):
    network = make(name)
    grid = network.config.grid
    frames = grid.clip_frames(3)
    clip = jax.ShapeDtypeStruct((2, frames, 2 * grid.side, 3 * grid.side, 3), jnp.float32)
    latents = jax.eval_shape(lambda x: network.encode(x).mean, clip)
    assert latents.shape == (2, 3, 2, 3, 2)
    assert jax.eval_shape(network.decode, latents).shape == clip.shape
    with pytest.raises(ValueError, match="height cannot be represented" if grid.side > 1 else "frames"):
        network.encode(jnp.zeros((1, int(grid.side > 1), 2 * grid.side + 1, grid.side, 3)))


@pytest.mark.parametrize("name", CONFIGS)
def test_latents_of_another_shape_are_refused(name):
    network = make(name)
    for shape in ((1, 2, 2, 2, 3), (2, 2, 2, 2), (1, 0, 2, 2, 2)):
        with pytest.raises(ValueError, match=r"latents: shape .* is not \[B, t, h, w, 2\]"):
            network.decode(jnp.zeros(shape))


def test_a_chunk_of_nothing_is_refused():
    with pytest.raises(ValueError, match="chunk: 0 must be 1 or more"):
        make("wan").encode(jnp.zeros((1, 1, 4, 4, 3)), chunk=0)


def test_the_posterior():
    moments = jnp.concatenate([jnp.full((2, 1, 1, 1, 3), 2.0), jnp.full((2, 1, 1, 1, 3), 40.0)], axis=-1)
    posterior = Posterior.of(moments)
    np.testing.assert_array_equal(posterior.mode(), np.full((2, 1, 1, 1, 3), 2.0))
    np.testing.assert_array_equal(posterior.logvar, np.full((2, 1, 1, 1, 3), 20.0))
    unit = Posterior(jnp.zeros((1, 4, 50, 50, 2)), jnp.full((1, 4, 50, 50, 2), np.log(4.0)))
    drawn = unit.sample(jax.random.key(0))
    assert abs(float(drawn.std()) - 2.0) < 0.02
    np.testing.assert_allclose(unit.kl(), [20_000 * 0.5 * (4 - 1 - np.log(4.0))], rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "shift", "factor"),
    [
        (KLConfig(), 0.0, 0.18215),
        (KLConfig(latent_channels=2, scaling_factor=1.5, shift_factor=0.25), 0.25, 1.5),
        (
            KLConfig(latent_channels=2, scaling_factor=0.5, latents_mean=(1.0, 2.0), latents_std=(4.0, 5.0)),
            np.array([1.0, 2.0]),
            np.array([0.125, 0.1]),
        ),
        (CogVideoXConfig(scaling_factor=0.7), 0.0, 0.7),
        (WanConfig(latent_channels=2, latents_mean=(1.0, 2.0), latents_std=(4.0, 5.0)), [1.0, 2.0], [0.25, 0.2]),
    ],
)
def test_the_scale_of_latents(config, shift, factor):
    latents = np.float32(np.random.default_rng(0).standard_normal((1, 2, 3, 3, 2)))
    normalised = config.scale.normalise(latents)
    np.testing.assert_allclose(normalised, (latents - np.asarray(shift)) * np.asarray(factor), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(config.scale.restore(normalised), latents, rtol=1e-5, atol=1e-6)


def test_given_pictures_may_have_a_scale_of_their_own():
    assert CogVideoXConfig().image_scale == CogVideoXConfig().scale
    assert CogVideoXConfig(scaling_factor=0.7, invert_scale_latents=True).image_scale == Scale(scale=(0.7,))


@pytest.mark.parametrize(
    ("make_config", "message"),
    [
        (lambda: KLConfig(widths=(128, 100)), "widths: 100 must divide by groups=32"),
        (lambda: KLConfig(widths=()), r"widths: \(\) must name"),
        (lambda: KLConfig(latents_mean=(0.0,)), "latents_mean: 1 values for 4 latent channels"),
        (lambda: KLConfig(shift_factor=1.0, latents_mean=(0.0,) * 4), "shift_factor: there is latents_mean, too"),
        (lambda: WanConfig(halve_time=(True,)), r"halve_time: \(True,\) must have 3 values"),
        (lambda: CogVideoXConfig(widths=(32, 32)), r"widths: \(32, 32\) must be 3 or more"),
    ],
)
def test_configs_check_themselves(make_config, message):
    with pytest.raises(ValueError, match=message):
        make_config()
