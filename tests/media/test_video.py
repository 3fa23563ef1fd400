"""Video files: what goes in comes out, time stamps and metadata are honoured, and every broken file says why."""

import errno
import io
import pickle

import av
import numpy as np
import pytest
from PIL import Image

from tests.media.footage import FPS, level, make_sound, make_video, make_without_pictures, picture
from vdm_jax.errors import RunError
from vdm_jax.media import video as media


def noise(frames, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def twenty():
    """Twenty pictures, a tenth of a second each."""
    return make_video([picture(k) for k in range(20)])


def levels(source, fps=None):
    return [level(pixels) for pixels in media.decode(source, fps)]


# Writing


@pytest.mark.parametrize("size", [(16, 16), (17, 15), (1, 1), (34, 21)])
def test_lossless_gives_every_pixel_back(size):
    clip = noise(5, *size)
    np.testing.assert_array_equal(media.decode(media.encode_mp4(clip, 8, lossless=True)), clip)


@pytest.mark.parametrize(("size", "even"), [((16, 16), (16, 16)), ((17, 15), (18, 16)), ((2, 1), (2, 2))])
def test_lossy_pads_odd_sides_by_one(size, even):
    decoded = media.decode(media.encode_mp4(noise(3, *size), 8))
    assert decoded.shape == (3, *even, 3)


def test_colours_survive_lossy_coding():
    colours = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 60, 30)], np.uint8)
    clip = np.broadcast_to(colours[:, None, None], (6, 16, 16, 3))
    decoded = media.decode(media.encode_mp4(clip, 8))
    assert np.abs(decoded.astype(int) - clip).max() <= 4


def test_crf_trades_size_for_error():
    clip = noise(8, 32, 32)
    small, large = media.encode_mp4(clip, 8, crf=40), media.encode_mp4(clip, 8, crf=5)
    error = [np.abs(media.decode(data).astype(int) - clip).mean() for data in (small, large)]
    assert len(small) < len(large)
    assert error[0] > error[1]


def test_small_moving_pictures_give_the_same_bytes_whatever_lies_in_memory():
    """Left to itself x264 reads memory that it has not written."""
    rng = np.random.default_rng(0)
    rough = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)).resize((160, 160), Image.Resampling.BICUBIC)
    fine = rng.integers(-12, 13, (160, 160, 3))
    moving = [
        np.asarray(rough).astype(int)[k : k + 64, 2 * k : 2 * k + 64] + fine[3 * k : 3 * k + 64, :64] for k in range(8)
    ]
    clip = np.clip(moving, 0, 255).astype(np.uint8)
    seen = set()
    for k in range(12):
        junk = [rng.bytes(10_000 + 7_000 * n + 999 * k) for n in range(12)]
        seen.add(media.encode_mp4(clip, 8))
        del junk
    assert len(seen) == 1


def panned(frames, height, width):
    """A window that moves over a smooth picture."""
    y, x = np.mgrid[: height + frames, : width + 2 * frames]
    wide = np.stack([128 + 100 * np.sin(x / 5), 128 + 100 * np.cos(y / 7), 128 + 90 * np.sin((x + y) / 9)], -1)
    return np.stack([np.uint8(wide[t : t + height, 2 * t : 2 * t + width]) for t in range(frames)])


@pytest.mark.parametrize("size", [(16, 16), (33, 50), (64, 96)])
def test_av1_is_smaller_and_shows_the_same(size):
    clip = panned(12, *size)
    stored = media.encode_mp4(clip, 8, codec="av1", crf=4)
    assert stored == media.encode_mp4(clip, 8, codec="av1", crf=4)
    assert media.probe(stored).codec in ("av1", "libdav1d")
    decoded = media.decode(stored)[:, : size[0], : size[1]]
    assert np.abs(decoded.astype(int) - clip).mean() < 6
    with pytest.raises(ValueError, match="codec: 'av1' lossless is not h264, h264 lossless or av1"):
        media.encode_mp4(clip, 8, codec="av1", lossless=True)


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_long_clips_have_keyframes_to_begin_at(codec):
    with av.open(io.BytesIO(media.encode_mp4(panned(60, 32, 32), 8, codec=codec))) as container:
        keys = [k for k, packet in enumerate(p for p in container.demux(video=0) if p.size) if packet.is_keyframe]
    assert keys[0] == 0
    assert len(keys) >= 3


def test_encoding_is_deterministic():
    clip = noise(8, 32, 32)
    assert media.encode_mp4(clip, 8) == media.encode_mp4(clip, 8)


@pytest.mark.parametrize("fps", [8, 29.97, 0.5, 60])
def test_rate_is_stored(fps):
    info = media.probe(media.encode_mp4(noise(6, 16, 16), fps))
    assert info.fps == pytest.approx(fps, rel=1e-4)
    assert info.frames == 6
    assert info.duration == pytest.approx(6 / fps, rel=1e-3)


def test_gif_plays_as_long_as_the_clip():
    clip = np.stack([picture(k) for k in range(0, 24, 3)])
    data = Image.open(io.BytesIO(media.encode_gif(clip, 8)))
    total, seen = 0, []
    for k in range(data.n_frames):
        data.seek(k)
        total += data.info["duration"]
        seen.append(level(np.asarray(data.convert("RGB"))))
    assert seen == list(range(0, 24, 3))
    assert total == 1000
    assert data.info["loop"] == 0


def test_files_hold_what_the_encoder_gives(tmp_path):
    clip = noise(4, 16, 16)
    media.write_mp4(tmp_path / "a.mp4", clip, 8, lossless=True)
    media.write_gif(tmp_path / "a.gif", clip, 8)
    np.testing.assert_array_equal(media.decode(tmp_path / "a.mp4"), clip)
    assert (tmp_path / "a.gif").read_bytes() == media.encode_gif(clip, 8)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gif", "a.mp4"]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((noise(2, 4, 4).astype(np.float32), 8), "video"),
        ((noise(2, 4, 4)[0], 8), "video"),
        ((noise(0, 4, 4), 8), "video"),
        ((noise(2, 4, 4), 0), "fps"),
    ],
)
def test_wrong_clips_are_refused(arguments, name):
    for encode in (media.encode_mp4, media.encode_gif):
        with pytest.raises(ValueError, match=f"^{name}: "):
            encode(*arguments)


def test_wrong_quality_is_refused():
    with pytest.raises(ValueError, match=r"^crf: 52"):
        media.encode_mp4(noise(2, 4, 4), 8, crf=52)


def test_full_disk_leaves_no_file(tmp_path, monkeypatch):
    def full(path, data):
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(media.Path, "write_bytes", full)
    with pytest.raises(RunError, match=r"cannot write .*a\.mp4: No space left on device"):
        media.write_mp4(tmp_path / "a.mp4", noise(2, 16, 16), 8)
    assert not list(tmp_path.iterdir())


# Time


def test_native_gives_every_picture_once(twenty):
    assert levels(twenty) == list(range(20))


@pytest.mark.parametrize("fps", [FPS, 5, 2.5, 20, 3])
def test_resampling_shows_what_is_on_screen(twenty, fps):
    count = int(np.ceil(20 * fps / FPS - 1e-9))
    assert levels(twenty, fps) == [int(k * FPS / fps + 1e-9) for k in range(count)]


def test_variable_rate_plays_at_its_true_speed():
    ticks = [0, 1, 2, 3, 8, 9, 16, 17, 18, 19]
    data = make_video([picture(k) for k in range(10)], ticks=ticks)
    expected = [max(k for k, tick in enumerate(ticks) if tick <= n) for n in range(20)]
    assert levels(data, FPS) == expected
    assert levels(data) == list(range(10))
    assert [round(seconds * FPS) for seconds, _ in media.iter_frames(data)] == ticks


def test_clock_of_a_millisecond_does_not_repeat_or_skip():
    pictures = [picture(k) for k in range(24)]
    data = make_video(pictures, container="matroska", ticks=[3 * k for k in range(24)])
    assert levels(data, FPS / 3) == list(range(24))


def test_jump_of_the_time_stamps_is_damage():
    data = make_video([picture(k) for k in range(4)], ticks=[0, 1, 2, 100_000])
    assert len(media.decode(data)) == 4
    with pytest.raises(media.VideoError, match="jump by") as caught:
        media.decode(data, 8)
    assert caught.value.reason == "damaged"


def test_decoding_stops_when_asked(twenty):
    assert [level(p) for p in media.decode(twenty, frames=3)] == [0, 1, 2]


def test_wrong_rate_is_refused(twenty):
    with pytest.raises(ValueError, match=r"^fps: 0"):
        media.decode(twenty, 0)
    with pytest.raises(ValueError, match=r"^frames: 0"):
        media.decode(twenty, frames=0)


# What files are like


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_is_applied(rotation):
    stored = np.zeros((32, 48, 3), np.uint8)
    stored[:16, :16] = 255  # one bright corner tells all turns apart
    data = make_video([stored] * 3, rotation=rotation)
    expected = np.rot90(stored, rotation // 90)
    info = media.probe(data)
    assert (info.height, info.width, info.rotation) == (*expected.shape[:2], rotation)
    assert np.abs(media.decode(data)[0].astype(int) - expected).mean() < 5


@pytest.mark.parametrize(
    ("codec", "pixel_format", "size"),
    [
        ("libx264", "yuv420p10le", (32, 48)),
        ("libx264", "yuv444p", (33, 47)),
        ("ffv1", "yuv420p", (31, 45)),
        ("mpeg4", "yuv420p", (32, 48)),
    ],
)
def test_depths_and_odd_sizes(codec, pixel_format, size):
    container = "matroska" if codec == "ffv1" else "mp4"
    pictures = [picture(k, *size) for k in range(5)]
    data = make_video(pictures, codec=codec, pixel_format=pixel_format, container=container)
    info, decoded = media.probe(data), media.decode(data)
    assert (info.height, info.width, info.pixel_format) == (*size, pixel_format)
    assert decoded.dtype == np.uint8
    assert [level(p) for p in decoded] == list(range(5))


def test_threads_change_nothing(twenty):
    np.testing.assert_array_equal(media.decode(twenty, threads=0), media.decode(twenty))


def test_sound_beside_the_pictures_is_seen():
    data = make_video([picture(0)] * 3, sound=True)
    assert media.probe(data).has_audio
    assert len(media.decode(data)) == 3


def test_sound_alone_can_be_probed():
    info = media.probe(make_sound())
    assert (info.has_video, info.has_audio, info.frames) == (False, True, 0)


def test_bytes_and_files_are_the_same(tmp_path, twenty):
    (tmp_path / "a.mp4").write_bytes(twenty)
    assert media.probe(tmp_path / "a.mp4") == media.probe(twenty)
    np.testing.assert_array_equal(media.decode(str(tmp_path / "a.mp4")), media.decode(twenty))


# What is broken


def cut(share, **options):
    data = make_video([noise(1, 32, 48, seed=k)[0] for k in range(24)], **options)
    return data[: int(share * len(data))]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: b"", "empty"),
        (lambda: b"this is no video at all\n" * 50, "unreadable"),
        (make_sound, "no_video"),
        (make_without_pictures, "no_frames"),
        (lambda: cut(0.5), "truncated"),
        (lambda: cut(0.5, container="matroska", ticks=range(0, 48, 2)), "truncated"),
        (lambda: cut(0.5, container="avi", codec="mpeg4"), "truncated"),
        (lambda: make_video([picture(0)], rotation=45), "rotation"),
    ],
    ids=["empty", "text", "sound", "zero-frame", "cut-mp4", "cut-mkv", "cut-avi", "turned-by-45"],
)
def test_broken_files_say_why(tmp_path, make, reason):
    path = tmp_path / "bad.mp4"
    path.write_bytes(make())
    for source in (path, make()):
        with pytest.raises(media.VideoError) as caught:
            media.decode(source, 8)
        assert caught.value.reason == reason
        assert "\n" not in str(caught.value)
    with pytest.raises(media.VideoError, match=r"bad\.mp4"):
        media.decode(path)


def test_cut_file_with_its_index_in_front(tmp_path):
    whole = make_video([noise(1, 32, 48, seed=k)[0] for k in range(24)])
    index = whole.index(b"moov") - 4
    # Move the index to the front as streaming files have it; chunk offsets grow by its length.
    moov, head = bytearray(whole[index:]), whole.index(b"mdat") - 4
    table = moov.index(b"stco") + 8
    for entry in range(int.from_bytes(moov[table : table + 4], "big")):
        at = table + 4 + 4 * entry
        moov[at : at + 4] = (int.from_bytes(moov[at : at + 4], "big") + len(moov)).to_bytes(4, "big")
    data = whole[:head] + bytes(moov) + whole[head:index]
    np.testing.assert_array_equal(media.decode(data), media.decode(whole))
    with pytest.raises(media.VideoError, match="cut off at byte") as caught:
        media.probe(data[:-100])
    assert caught.value.reason == "truncated"


def test_missing_file_and_folder(tmp_path):
    for path, reason in ((tmp_path / "none.mp4", "missing"), (tmp_path, "unreadable")):
        with pytest.raises(media.VideoError) as caught:
            media.probe(path)
        assert caught.value.reason == reason


def test_error_survives_pickling():
    error = pickle.loads(pickle.dumps(media.VideoError("damaged", "x.mp4: a sentence")))
    assert (error.reason, str(error)) == ("damaged", "x.mp4: a sentence")
    assert isinstance(error, RunError)
