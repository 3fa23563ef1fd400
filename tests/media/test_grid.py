import numpy as np
import pytest
from PIL import Image

from vdm_jax.media import grid


def clip(t=4, h=6, w=5, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (t, h, w, 3), np.uint8)


def test_pixels_round_trip_through_the_model_range():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    np.testing.assert_array_equal(grid.to_uint8(levels / np.float32(127.5) - 1), levels)
    assert grid.to_uint8(levels) is levels
    assert grid.to_uint8(np.float32([-3.0, 3.0])).tolist() == [0, 255]


@pytest.mark.parametrize("bad", [np.zeros((1, 2, 2, 3), np.int64), np.float32([np.nan])])
def test_pixels_of_another_kind_are_refused(bad):
    with pytest.raises(ValueError, match="clip: "):
        grid.to_uint8(bad)


def test_upscaling_is_nearest_and_whole():
    x = clip()
    up = grid.enlarge(x, 20)
    assert up.shape == (4, 24, 20, 3)
    np.testing.assert_array_equal(up[:, ::4, ::4], x)
    np.testing.assert_array_equal(up[:, 3::4, 3::4], x)
    assert grid.enlarge(x, 3) is not None
    assert grid.enlarge(x, 3).shape == x.shape


@pytest.mark.parametrize(("length", "count"), [(1, 8), (8, 8), (17, 8), (100, 3), (5, 1)])
def test_spread_keeps_the_ends(length, count):
    picked = grid.spread(length, count)
    assert len(picked) == min(length, count) == len(set(picked))
    assert picked == sorted(picked)
    assert picked[0] == 0
    assert picked[-1] == length - 1 or count == 1


def test_film_strip_shows_the_frames_in_order():
    x = clip(t=3, h=4, w=4)
    strip = grid.film_strip(x, frames=3, height=8)
    step = 8 + grid.FRAME_GAP
    for i in range(3):
        np.testing.assert_array_equal(strip[::2, i * step : i * step + 8 : 2], x[i])


def test_large_frames_are_shrunk_by_averaging():
    x = np.zeros((1, 64, 32, 3), np.uint8)
    x[:, ::2] = 200
    small = grid.film_strip(x, height=16)
    assert small.shape == (16, 8, 3)
    np.testing.assert_array_equal(small, 100)


def test_contact_sheet_holds_every_clip_and_its_caption():
    clips = [clip(seed=s, h=8, w=8) for s in range(3)]
    sheet = grid.contact_sheet(clips, ["a", "b", "long words " * 40], frames=2, height=16, columns=2)
    x0, y0 = grid.MARGIN, grid.MARGIN
    np.testing.assert_array_equal(sheet[y0 : y0 + 16 : 2, x0 : x0 + 16 : 2], clips[0][0])
    captions = sheet[y0 + 16 + grid.FRAME_GAP :, x0 : x0 + 40]
    assert (captions.min(axis=-1) < 128).any()  # ink


def test_contact_sheet_grows_with_its_content():
    one = grid.contact_sheet([clip()], ["x"])
    pair = grid.pair_sheet([clip()], [clip(seed=1)], ["x"])
    assert pair.shape[0] > one.shape[0]
    assert grid.contact_sheet([clip()] * 2, ["x"] * 2, columns=2).shape[1] > one.shape[1]


def test_long_captions_are_broken_into_lines():
    font, text = grid._font(), "a red circle moves to the left and a green square to the right"
    lines = grid._broken(text, font, 140, 9)
    assert " ".join(lines) == text
    assert max(map(font.getlength, lines)) <= 140
    two = grid._broken(text, font, 140, 2)
    assert two[0] == lines[0]
    assert two[1].endswith("…")
    assert grid._broken("", font, 140, 3) == [""]
    sheets = [grid.strip_sheet([{"x": clip()}], ["long words " * 40], height=16, lines=n) for n in (1, 3)]
    assert sheets[1].shape[0] > sheets[0].shape[0] + 20


def test_strips_of_a_group_stand_under_one_another():
    one, two, three = (clip(seed=s, h=8, w=8) for s in range(3))
    sheet = grid.strip_sheet([{"video": one, "a much longer label": two, "masks": three}], ["x"], height=16, frames=2)
    rows = np.flatnonzero((sheet[:, -grid.MARGIN - 1] != grid.PAPER).any(-1))
    assert len(rows) > 2 * 16
    assert sheet.shape[0] > grid.strip_sheet([{"video": one}], ["x"], height=16).shape[0] + 2 * 16
    with pytest.raises(ValueError, match="columns: 0"):
        grid.strip_sheet([{"video": one}], ["x"], columns=0)


@pytest.mark.parametrize(
    ("clips", "captions", "message"),
    [
        ([], [], "0 clips"),
        ([clip()], ["a", "b"], "1 clips, 2 captions"),
        ([clip().astype(np.float32)], ["a"], r"clips\[0\]: .*float32"),
        ([clip()[0]], ["a"], r"clips\[0\]: .*\[6, 5, 3\]"),
    ],
)
def test_contact_sheet_names_what_is_wrong(clips, captions, message):
    with pytest.raises(ValueError, match=message):
        grid.contact_sheet(clips, captions)


def test_tile_puts_clips_side_by_side():
    clips = [clip(seed=s) for s in range(3)]
    sheet = grid.tile(clips, gap=1)
    assert sheet.shape == (4, 13, 11, 3)
    np.testing.assert_array_equal(sheet[:, :6, :5], clips[0])
    np.testing.assert_array_equal(sheet[:, :6, 6:], clips[1])
    np.testing.assert_array_equal(sheet[:, 7:, :5], clips[2])
    with pytest.raises(ValueError, match="one shape"):
        grid.tile([clip(), clip(t=2)])


def test_png_is_written_exactly_and_whole(tmp_path):
    image = clip()[0]
    grid.write_png(image, tmp_path / "x.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "x.png")), image)
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]
