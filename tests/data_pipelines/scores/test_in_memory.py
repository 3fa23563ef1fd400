"""A clip in memory is seen as the same clip in a file is."""

import numpy as np
import pytest

from data_pipelines.curation.scores.in_memory import sample_of
from data_pipelines.curation.scores.sampling import SampleSettings, sample_spans
from data_pipelines.curation.source import Span
from data_pipelines.worlds.sprites.world import SpritesConfig, clip
from vdm_jax.media.video import encode_mp4

pytest.importorskip("cv2", reason="pictures are made smaller by OpenCV")


@pytest.mark.parametrize("frames", [8, 20])
def test_as_a_file_is(frames, tmp_path):
    video = clip(SpritesConfig(height=96, width=128, frames=frames), 3).video
    path, settings = tmp_path / "clip.mp4", SampleSettings(side=48, head=0)
    path.write_bytes(encode_mp4(video, 8, crf=1))
    ((_, theirs),) = sample_spans(path, [Span(0, frames / 8)], settings)
    ours = sample_of(video, 8.0, settings)
    np.testing.assert_allclose(ours.times, theirs.times, atol=1e-3)
    np.testing.assert_allclose(ours.thumb_times, theirs.thumb_times, atol=1e-3)
    assert (ours.fps, ours.height, ours.width) == (theirs.fps, theirs.height, theirs.width)
    assert ours.pairs() == theirs.pairs()
    for a, b in ((ours.grey, theirs.grey), (ours.thumbs, theirs.thumbs)):
        assert a.shape == b.shape
        assert np.abs(a.astype(float) - b).mean() < 4
    for a, b in ((ours.edges.rows, theirs.edges.rows), (ours.edges.columns, theirs.edges.columns)):
        np.testing.assert_allclose(a, b, atol=12)


@pytest.mark.parametrize(
    ("video", "fps", "why"),
    [
        (np.zeros((2, 8, 8, 3)), 8.0, r"video: expected uint8 \[T, H, W, 3\], got float64"),
        (np.zeros((2, 8, 8, 3), np.uint8), 0.0, "fps: 0.0 must be a rate above 0"),
    ],
)
def test_what_is_no_clip_is_refused(video, fps, why):
    with pytest.raises(ValueError, match=why):
        sample_of(video, fps)
