"""Pictures of what is known about a clip."""

import numpy as np

from data_pipelines.worlds import panels
from data_pipelines.worlds.sprites import world as sprites
from data_pipelines.worlds.sprites.world import SpritesConfig
from data_pipelines.worlds.world import Example


def test_flow_is_a_colour_wheel():
    flow = np.array([[0, 0], [2, 0], [0, 2], [-2, 0], [1, 0], [2e-5, 0]], np.float32)
    red, down, left, pale = (panels.flow_colours(flow)[i].astype(int) for i in (1, 2, 3, 4))
    np.testing.assert_array_equal(panels.flow_colours(flow)[0], [255, 255, 255])
    np.testing.assert_array_equal(red, [255, 0, 0])
    np.testing.assert_array_equal(left, [0, 255, 255])
    assert down[1] == 255 > down[0] > down[2]
    np.testing.assert_array_equal(pale, [255, 128, 128])
    assert (panels.flow_colours(np.zeros((4, 4, 2), np.float32)) == 255).all()


def test_every_field_that_can_be_drawn_is_drawn_beside_the_clip():
    made = sprites.clip(SpritesConfig(objects=2), 3)
    drawn = panels.panels(made)
    assert list(drawn) == ["video", "flow", "masks", "tracks"]
    for clip in drawn.values():
        assert clip.dtype == np.uint8
        assert (len(clip), clip.shape[-1]) == (8, 3)
    colours = [len(np.unique(drawn["masks"][made.fields["masks"] == k], axis=0)) for k in (0, 1, 2)]
    assert colours == [1, 1, 1]
    assert len(np.unique(drawn["masks"].reshape(-1, 3), axis=0)) == 3
    assert (drawn["flow"][:-1][made.fields["masks"][:-1] == 0].min(-1) >= 127).all()  # white, or hidden soon


def test_near_is_bright():
    depth = np.linspace(1, 9, 2 * 4 * 4, dtype=np.float32).reshape(2, 4, 4)
    example = Example(np.zeros((2, 4, 4, 3), np.uint8), "", {}, {"depth": depth})
    light = panels.panels(example)["depth"].astype(int).sum(-1).reshape(-1)
    assert (np.diff(light) <= 0).all()
    assert light[0] > 2 * light[-1] + 300
