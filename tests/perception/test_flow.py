import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.worlds.planes.world import PlanesConfig, clip
from vdm_jax.geometry import direction_errors
from vdm_jax.perception.flow import LucasKanade

MOVES = ("orbit left", "roll right", "truck left")
CONFIG = PlanesConfig(height=32, width=32, frames=6, moves=MOVES)
ESTIMATE = jax.jit(LucasKanade())


def test_flow_of_textured_planes_is_found():
    made = [clip(CONFIG, index) for index in range(len(MOVES))]
    video = np.stack([one.video for one in made]).astype(np.float32) / 127.5 - 1
    flow, visible = (np.stack([one.fields[name] for one in made]) for name in ("flow", "flow_visible"))
    found = np.asarray(ESTIMATE(video))
    assert found.shape == flow.shape
    error, length = np.linalg.norm(found - flow, axis=-1), np.linalg.norm(flow, axis=-1)
    for one, still, seen in zip(error, length, visible):
        assert np.median(one[seen]) < 0.35 * np.median(still[seen])
        assert one[seen].mean() < 0.5 * still[seen].mean()
    forward, backward = direction_errors(jnp.asarray(video), found)
    assert forward < 0.7 * backward


def test_a_picture_that_moves_as_a_whole_moves_by_that_and_a_still_one_does_not():
    y, x = np.indices((24, 40)) + 0.5
    frames = [
        np.sin(0.7 * (x - 1.5 * t))[..., None] * np.cos(0.5 * (y + 0.75 * t))[..., None] * np.ones(3) for t in range(3)
    ]
    video = np.stack(frames).astype(np.float32)
    inner = np.asarray(LucasKanade()(jnp.asarray(video)))[:, 6:-6, 6:-6]
    np.testing.assert_allclose(inner, np.broadcast_to([1.5, -0.75], inner.shape), atol=0.12)
    np.testing.assert_allclose(LucasKanade()(jnp.asarray(video[[0, 0]])), 0, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LucasKanade(levels=0), "levels: 0 must be 1 or more"),
        (lambda: LucasKanade(window=0.0), "window: 0.0 must be above 0"),
        (lambda: LucasKanade()(jnp.zeros((8, 8, 3))), r"video: shape \(8, 8, 3\)"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
