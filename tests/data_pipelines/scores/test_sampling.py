"""The small decode: the right pictures at the right times, whatever is left out, for all spans at once."""

from fractions import Fraction

import av
import numpy as np
import pytest

from data_pipelines.curation.probe import probe
from data_pipelines.curation.scores.decoding import decode_at
from data_pipelines.curation.scores.sampling import SampleSettings, sample_spans, wanted_times
from data_pipelines.curation.source import Span
from tests.media.footage import make_video
from vdm_jax.media.video import VideoError

pytest.importorskip("cv2", reason="the extra `curate` is not installed")

RATE, GOP, COUNT = 20, 25, 200


def picture(k: int, height: int = 72, width: int = 128) -> np.ndarray:
    """Grey that says which picture it is, over a little structure."""
    pixels = np.full((height, width, 3), 20 + k, np.uint8)
    pixels[: height // 3, : width // 4] = 240
    return pixels


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Ten seconds at 20 pictures a second with B-frames, a keyframe every 25; the picture at k / 20 s is k."""
    path = tmp_path_factory.mktemp("sampling") / "counted.mp4"
    with av.open(str(path), "w") as container:
        options = {"crf": "1", "preset": "veryfast", "bf": "2", "sc_threshold": "0"}
        stream = container.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 128, 72, "yuv420p", GOP
        for k in range(COUNT):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(k), format="rgb24")))
        container.mux(stream.encode())
    return path


def number(frame: np.ndarray) -> float:
    """Which picture it is."""
    return float(frame[40:, 40:].mean()) - 20


def test_every_picture_is_decoded_where_all_are_wanted(video):
    shown = [(time, until) for time, until, _ in decode_at(video, [(0.0, 10.0)], thin=False)]
    assert len(shown) == COUNT
    np.testing.assert_allclose([time for time, _ in shown], np.arange(COUNT) / RATE, atol=1e-6)
    np.testing.assert_allclose([until for _, until in shown], np.arange(1, COUNT + 1) / RATE, atol=1e-6)


def test_only_the_groups_that_are_wanted_are_decoded(video):
    times = [time for time, _, _ in decode_at(video, [(6.5, 6.5)], thin=False)]
    assert times[0] == pytest.approx(6.25), "decoding starts at the keyframe before"
    assert times[-1] < 6.8, "and ends when the wanted time is on screen"


@pytest.mark.parametrize("head", [0.0, 1.5])
def test_pictures_are_those_on_screen(video, head):
    spans = [Span(0, 4), Span(3.5, 9.7), Span(8.03, 9.4)]
    settings = SampleSettings(head=head, least=3)
    found = dict(sample_spans(video, spans, settings, probe(video).keyframes))
    assert set(found) == set(spans)
    for span, sample in found.items():
        assert sample.frames.shape[1:] == (72, 128, 3), "small sources are not enlarged"
        assert (sample.height, sample.width) == (72, 128)
        inside = (sample.times >= span.start - 1 / RATE) & (sample.times < span.end)
        assert inside.all()
        assert (np.diff(sample.times) > 0).all()
        shown = [number(frame) for frame in sample.frames]
        np.testing.assert_allclose(shown, sample.times * RATE, atol=1.5)
    if head == 0:
        assert len(found[spans[0]].thumbs) == 4 * RATE, "every picture is seen"
        assert len(found[spans[0]].frames) == 8


def test_later_parts_of_groups_are_left_out_but_for_enough_pictures():
    keyframes = (0.0, 5.0)
    few = wanted_times(Span(0, 10), keyframes, SampleSettings(head=1.0, least=4))
    assert few == [0.0, 0.5, 1.0, 5.0, 5.5, 6.0]
    more = wanted_times(Span(2, 5), keyframes, SampleSettings(head=1.0, least=4))
    assert more == [2.0, 2.5, 3.0, 3.5], "the span holds no keyframe; the nearest are dear enough"
    assert len(wanted_times(Span(0, 3600), (), SampleSettings())) <= SampleSettings().most
    assert wanted_times(Span(1.2, 1.3), keyframes, SampleSettings(few=1)) == [1.2]


@pytest.mark.parametrize("end", [2.15, 2.4, 2.9])
def test_a_short_span_is_seen_more_often(video, end):
    (_, sample), *_ = sample_spans(video, [Span(2.0, end)], SampleSettings())
    assert len(sample.times) == 3
    assert len(sample.pairs()) == 2, "so that it has scores of motion"
    shown = [number(frame) for frame in sample.frames]
    np.testing.assert_allclose(shown, sample.times * RATE, atol=1.5)
    assert sample.times[2] - sample.times[0] > 0.5 * (end - 2.0)
    assert wanted_times(Span(1, 4), (), SampleSettings()) == [1.0, 1.5, 2.0, 2.5, 3.0, 3.5], "and no other"


def test_a_held_picture_counts_for_as_long_as_it_is_shown(tmp_path):
    path = tmp_path / "held.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 128, 72, "yuv420p"
        for second, k in ((0.0, 0), (0.5, 30), (5.0, 90), (5.5, 120)):
            frame = av.VideoFrame.from_ndarray(picture(k), format="rgb24")
            frame.pts, frame.time_base = round(second * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (_, sample), *_ = sample_spans(path, [Span(1.0, 4.0)], SampleSettings())
    assert len(sample.pairs()) == 5, "the picture is shown at six wanted times"
    np.testing.assert_allclose([number(frame) for frame in sample.frames], 30, atol=3)


def test_a_turned_file_is_seen_upright(tmp_path):
    stored = np.zeros((64, 96, 3), np.uint8)
    stored[:, 48:] = 255
    path = tmp_path / "turned.mp4"
    path.write_bytes(make_video([stored] * 8, rotation=90))
    (_, sample), *_ = sample_spans(path, [Span(0, 0.2)], SampleSettings())
    assert (sample.height, sample.width) == (96, 64)
    assert sample.frames.shape[1:] == (96, 64, 3)
    assert sample.thumbs.shape[1:] == (48, 32)
    for pictures in (sample.grey[0].mean(1), sample.edges.rows[:, 0]):
        assert pictures[:40].min() > 240
        assert pictures[56:].max() < 12


def test_files_in_the_full_range(tmp_path):
    upright = np.zeros((64, 96, 3), np.uint8)
    upright[:, 48:] = 255
    path = tmp_path / "full.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=5)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"
        for _ in range(10):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(upright, format="rgb24").reformat(format="yuvj420p"))
            )
        container.mux(stream.encode())
    (_, sample), *_ = sample_spans(path, [Span(0, 2)], SampleSettings())
    means = sample.edges.columns[:, 0]
    assert means[:40].max() < 4
    assert means[56:].min() > 251
    np.testing.assert_allclose(sample.edges.rows[:, 0], 127.5, atol=4)


def test_damaged_and_missing_files_are_named(tmp_path):
    path = tmp_path / "text.mp4"
    path.write_text("no video")
    with pytest.raises(VideoError, match="text.mp4"):
        list(sample_spans(path, [Span(0, 1)], SampleSettings()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"side": 8}, "side: 8"), ({"fps": 100}, "fps: 100"), ({"least": 9, "most": 6}, "least: 9 is more than most=6")]
    + [({"few": 0}, "few: 0"), ({"few": 8, "least": 2, "most": 6}, "few: 8 is more than most=6")],
)
def test_settings_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        SampleSettings(**fields)
