"""Mixes of two pictures that move: their shares and ways are found, and a camera that passes is no mix."""

import numpy as np
import pytest

pytest.importorskip("cv2", reason="the curate extra")

from data_pipelines.curation.cut_checks import FINE, Checker, Shown
from data_pipelines.curation.cut_layers import Layers, moving
from data_pipelines.worlds.drawing.pictures import picture

HEIGHT, WIDTH = 64, 96
REST = np.zeros((2, 2), np.float32)


@pytest.fixture(scope="module")
def scenes():
    """Two pictures of 96x224 pixels."""
    rng = np.random.default_rng(5)
    return [picture(rng, 96, 224, 16.0).astype(np.float32) for _ in range(2)]


def view(scene, left, top=8):
    return scene[top : top + HEIGHT, left : left + WIDTH]


def shown(number, pixels):
    """Ten pictures a second."""
    return Shown(number, number / 10, max(0, number - 1) / 10, np.clip(pixels + 0.5, 0, 255).astype(np.uint8))


def filmed(scenes, number, share):
    """Both cameras pan, two pixels and one a picture, in opposite directions; `share` of the second scene."""
    first, second = view(scenes[0], 20 + 2 * number), view(scenes[1], 80 - number, 12)
    return shown(number, (1 - share) * first + share * second)


def test_still_pictures_are_unmixed(scenes):
    a, b = view(scenes[0], 0), view(scenes[1], 0)
    mix = Layers(shown(0, a), shown(10, b)).mix(shown(4, 0.7 * a + 0.3 * b))
    assert mix.explained > 0.98
    assert (mix.first, mix.second) == pytest.approx((0.7, 0.3), abs=0.03)
    assert mix.share == pytest.approx(0.3, abs=0.03)


def test_ways_and_shares_of_moving_pictures(scenes):
    a, m, b = filmed(scenes, 0, 0), filmed(scenes, 5, 0.5), filmed(scenes, 10, 1)
    still = Layers(a, b).mix(m)
    assert still.explained < 0.6
    checker = Checker()
    speed = np.stack([checker.speed(a, filmed(scenes, 1, 0)), checker.speed(filmed(scenes, 9, 1), b)])
    assert speed == pytest.approx(np.array([(-20, 0), (10, 0)]), abs=2.0)
    layers = moving(a, m, b, [speed])
    assert layers.mix(m).explained > 0.9
    assert layers.ways[:, :, 2] == pytest.approx(np.array([(20, 0), (-10, 0)]) / FINE, abs=0.8)
    shares = [layers.mix(filmed(scenes, k, k / 10)).share for k in (2, 4, 6, 8)]
    assert shares == pytest.approx([0.2, 0.4, 0.6, 0.8], abs=0.08), "the ways hold for the other pictures too"


@pytest.mark.parametrize("speed", [4, 8, 12])
def test_a_camera_that_passes_is_no_mix(scenes, speed):
    a, m, b = (shown(k, view(scenes[0], speed * k)) for k in (0, 5, 10))
    mix = moving(a, m, b, [REST, np.full((2, 2), (-10 * speed, 0), np.float32)]).mix(m)
    assert min(mix.first, mix.second) < 0.2 or mix.explained < 0.3, mix


def test_what_leaves_the_frame_explains_nothing(scenes):
    a, m, b = filmed(scenes, 0, 0), filmed(scenes, 5, 0.5), filmed(scenes, 10, 1)
    ways = np.zeros((2, 2, 3), np.float32)
    ways[:, 0, 2] = 2 * WIDTH
    assert Layers(a, b, ways).mix(m).explained == 0
