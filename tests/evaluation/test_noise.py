import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.evaluation.noise import follows, frames_a_second, looked_up, motions, whiteness

SIDE = 48
WHITE = jax.random.normal(jax.random.key(0), (SIDE, SIDE, 8))


def test_white_noise_is_found_white():
    found = whiteness(WHITE)
    assert abs(found["variance"] - 1) < 0.03
    assert abs(found["neighbours"]) < 0.02
    assert found["ks"] < 0.01


@pytest.mark.parametrize(
    ("frame", "name", "least"),
    [
        (1.2 * WHITE, "variance", 1.3),
        ((WHITE + jnp.roll(WHITE, 1, 0)) / 2**0.5, "neighbours", 0.2),
        (jnp.repeat(WHITE[::2], 2, 0), "neighbours", 0.2),
        (jnp.sign(WHITE), "ks", 0.3),
    ],
)
def test_what_is_not_white_is_found_out(frame, name, least):
    assert whiteness(frame)[name] > least


def test_noise_that_moves_follows_and_new_noise_does_not():
    flow = motions(SIDE, 2)["translation"][0]
    moved = jnp.roll(WHITE, (-1, 2), (0, 1))
    assert follows(WHITE, moved, flow) == pytest.approx(1, abs=1e-5)
    assert abs(follows(WHITE, WHITE, flow)) < 0.03


def test_motions_are_flows_of_the_middle():
    for name, flow in motions(SIDE, 3).items():
        assert flow.shape == (2, SIDE, SIDE, 2)
        still = flow[0, SIDE // 2 - 1 : SIDE // 2 + 1, SIDE // 2 - 1 : SIDE // 2 + 1].mean((0, 1))
        assert (np.abs(still).max() < 0.1) == (name not in ("translation", "half_pixel")), name
    assert np.abs(motions(SIDE, 2)["zoom_in"] + motions(SIDE, 2)["zoom_out"]).max() == 0


def test_looking_noise_up_spoils_it():
    moves = motions(SIDE, 3)
    bilinear = looked_up(jax.random.key(1), moves["half_pixel"], 8, "bilinear")
    assert whiteness(bilinear[1])["variance"] == pytest.approx(0.5, abs=0.03)
    nearest = looked_up(jax.random.key(1), moves["zoom_in"], 8, "nearest")
    assert whiteness(nearest[2])["neighbours"] > 0.05
    rate = frames_a_second(lambda rng, flow: looked_up(rng, flow, 8, "nearest"), moves["zoom_in"], 1)
    assert 0 < rate < np.inf
