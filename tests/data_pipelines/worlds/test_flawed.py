"""Corpora of sprites with known flaws: what is wrong, how often, and that it is read back."""

import numpy as np
import pytest

from data_pipelines.worlds.sprites import oracle
from data_pipelines.worlds.sprites.flawed import flawed, flaws
from data_pipelines.worlds.sprites.world import SpritesConfig, clip

WORLD = SpritesConfig()
SHARES = {"still": 0.25, "cut": 0.2, "digits": 0.2, "caption": 0.1}


@pytest.fixture(scope="module")
def made():
    return flawed(WORLD, 200, SHARES, seed=3)


def test_each_kind_has_its_share_and_the_rest_is_the_world(made):
    assert {kind: (made.kind == kind).sum() / 200 for kind in SHARES} == SHARES
    assert ((made.cut > 0) == (made.kind == "cut")).all()
    for i in np.flatnonzero(np.isin(made.kind, ("", "caption"))):
        np.testing.assert_array_equal(made.video[i], clip(WORLD, i, 3).video)
    again = flawed(WORLD, 200, SHARES, seed=3)
    np.testing.assert_array_equal(again.video, made.video)
    assert again.said == made.said


def test_each_flaw_is_what_it_says(made):
    still = made.video[made.kind == "still"]
    assert (still == still[:, :1]).all()
    for i in np.flatnonzero(made.cut):
        np.testing.assert_array_equal(made.video[i, : made.cut[i]], clip(WORLD, i, 3).video[: made.cut[i]])
        assert 2 <= made.cut[i] <= WORLD.frames - 2
    right = [all(oracle.agree(v, s, WORLD).values()) for v, s in zip(made.video, made.said)]
    assert np.mean(np.array(right)[made.kind == ""]) > 0.99
    assert not np.array(right)[made.kind == "caption"].any()


def test_flaws_are_read_off_pixels(made):
    noisy = made.video / 127.5 - 1 + 0.1 * np.random.default_rng(0).standard_normal(made.video.shape)
    for video in (made.video, noisy):
        found = flaws(video)
        assert found.keys() == {"still", "cut", "digits"}
        for kind, read in found.items():
            assert read[made.kind == kind].mean() > 0.9, kind
            assert read[np.isin(made.kind, ("", "caption"))].mean() < 0.02, kind


@pytest.mark.parametrize(
    ("world", "shares", "why"),
    [
        (WORLD, {"stil": 0.1}, "shares: unknown 'stil'; did you mean 'still'"),
        (WORLD, {"still": 0.6, "cut": 0.5}, "shares: .* 1 at most together"),
        (SpritesConfig(frames=3), {"cut": 0.1}, "frames: 3 leave no room for a cut"),
    ],
)
def test_what_cannot_be_is_refused(world, shares, why):
    with pytest.raises(ValueError, match=why):
        flawed(world, 4, shares)
