"""Pictures by number: the same as those of the whole clip, without decoding it."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from vdm_jax.media import window
from vdm_jax.media.video import VideoError, decode, encode_mp4
from vdm_jax.media.window import decode_frames, resize

FRAMES = 24


def moving(frames=FRAMES, height=32, width=48):
    """A gradient with a bright bar that moves, so that every picture is another."""
    video = np.zeros((frames, height, width, 3), np.uint8)
    video[..., 0] = np.linspace(0, 200, width).astype(np.uint8)
    for k in range(frames):
        video[k, :, k : k + 6, 1] = 250
    return video


def encoded(gop: int, video=None, times=None) -> bytes:
    """H.264 with pictures out of order (B frames), a keyframe every `gop`; shown at `times` twelfths of a second."""
    video, out = moving() if video is None else video, io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        options = {"g": str(gop), "sc_threshold": "0", "bf": "2"}
        stream = container.add_stream("libx264", rate=12, options=options)
        stream.height, stream.width, stream.pix_fmt = *video.shape[1:3], "yuv420p"
        stream.codec_context.thread_count = 1
        for k, pixels in enumerate(video):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = k if times is None else times[k], Fraction(1, 12)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


@pytest.fixture(scope="module")
def clip():
    return encoded(8)


@pytest.mark.parametrize("numbers", [range(24), range(5), range(8, 16), [7], [10, 11, 12, 17], [3, 3, 9, 23], [23]])
def test_pictures_are_those_of_the_whole_clip(clip, numbers):
    np.testing.assert_array_equal(decode_frames(clip, numbers), decode(clip)[list(numbers)])


def test_a_variable_rate_counts_pictures_as_they_are_shown():
    times = np.cumsum([1 + k % 3 for k in range(FRAMES)]).tolist()
    uneven = encoded(8, times=times)
    np.testing.assert_array_equal(decode_frames(uneven, [9, 10, 20]), decode(uneven)[[9, 10, 20]])


def test_lossless_clips_of_odd_size(tmp_path):
    video = moving(height=31, width=33)
    (tmp_path / "clip.mp4").write_bytes(encode_mp4(video, 23.976, lossless=True))
    np.testing.assert_array_equal(decode_frames(tmp_path / "clip.mp4", [4, 5]), video[4:6])


@pytest.mark.parametrize(("numbers", "most"), [(range(2), 4), (range(17, 19), 6)])
def test_no_more_is_decoded_than_it_takes(clip, numbers, most, monkeypatch):
    """From the keyframe before, to the last picture and the two that are decoded ahead of it."""
    seen = []
    original = window._pictures

    def counting(container, stream, wanted):
        class Container:
            @staticmethod
            def decode(stream):
                for frame in container.decode(stream):
                    seen.append(frame.pts)
                    yield frame

        return original(Container, stream, wanted)

    monkeypatch.setattr(window, "_pictures", counting)
    decode_frames(clip, numbers)
    assert len(seen) <= most


def test_shrinking_is_close_to_the_means(clip):
    small = decode_frames(clip, [6, 7], (16, 24))
    means = decode(clip)[6:8].reshape(2, 16, 2, 24, 2, 3).mean((2, 4))
    assert small.shape == (2, 16, 24, 3)
    assert np.abs(small - means).mean() < 6


def test_resize_of_pixels():
    video = moving(2)
    assert resize(video, 32, 48) is video
    means = video.reshape(2, 16, 2, 24, 2, 3).mean((2, 4))
    assert np.abs(resize(video, 16, 24) - means).mean() < 6
    np.testing.assert_array_equal(resize(np.full((1, 9, 7, 3), 77, np.uint8), 4, 3), 77)


@pytest.mark.parametrize("numbers", [[], [-1], [2, 1]])
def test_wrong_numbers_are_refused(clip, numbers):
    with pytest.raises(ValueError, match="are not ascending numbers of 0 or more"):
        decode_frames(clip, numbers)


def test_what_is_not_there_is_named(clip):
    with pytest.raises(VideoError, match="has 24 pictures, not 31"):
        decode_frames(clip, [1, 30])
    with pytest.raises(VideoError, match="has 24 pictures instead of 25"):
        decode_frames(clip, [1], frames=25)
    with pytest.raises(VideoError, match="truncated|cut off|without its index"):
        decode_frames(clip[: len(clip) // 2], [1])


def test_pictures_that_are_damaged_at_a_keyframe_are_decoded_from_the_beginning(clip, monkeypatch):
    original, calls = window._pictures, []

    def first_fails(container, stream, wanted):
        calls.append(wanted)
        return None if len(calls) == 1 else original(container, stream, wanted)

    monkeypatch.setattr(window, "_pictures", first_fails)
    np.testing.assert_array_equal(decode_frames(clip, [18]), decode(clip)[[18]])
    monkeypatch.setattr(window, "_pictures", lambda *_: None)
    with pytest.raises(VideoError, match=r"some of its pictures \[18\] cannot be decoded"):
        decode_frames(clip, [18])
