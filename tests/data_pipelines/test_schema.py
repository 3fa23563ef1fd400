"""Records: what is stored comes back, and a record that lies about itself is refused."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.shards import schema
from data_pipelines.shards.schema import StoredField
from vdm_jax.errors import RunError


def record(codec="raw", size=(4, 16, 16), changes=()):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    made = schema.ClipRecord(
        video=schema.pack_pixels(pixels, codec, 8.0),
        codec=codec,
        caption="ein grüner Würfel, 走",
        fps=12.5,
        frames=size[0],
        height=size[1],
        width=size[2],
        source="folder/a b.mp4",
        start=1.25,
        split="train",
        index=2**40,
        labels='{"score": 0.5}',
    )
    return dataclasses.replace(made, **dict(changes)), pixels


def test_serialization_is_exact():
    made, _ = record()
    assert schema.deserialize(schema.serialize(made, {}), {}) == made
    empty = dataclasses.replace(made, caption="", video=b"\x00\xff\x00", labels="")
    assert schema.deserialize(schema.serialize(empty, {}), {}) == empty


def test_arrays_come_back_and_only_those_that_are_asked_for():
    fields = {"flow": StoredField((2, 3), "float32"), "points": StoredField((4, None, 2), "bool")}
    arrays = {"flow": np.ones((2, 3), np.float32), "points": np.ones((4, 0, 2), bool)}
    made, _ = record(changes={"fields": arrays})
    data = schema.serialize(made, fields)
    back = schema.deserialize(data, fields)
    for name, value in arrays.items():
        np.testing.assert_array_equal(back.fields[name], value)
    assert list(schema.deserialize(data, {"flow": fields["flow"]}).fields) == ["flow"]
    assert dataclasses.replace(back, fields={}) == dataclasses.replace(made, fields={})
    with pytest.raises(ValueError, match=r"shape: \[None, None\] leaves more than one dim open"):
        StoredField((None, None), "bool")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, r"fields: \[\] in a set with \[flow\]"),
        ({"flow": np.ones((2, 4), np.float32)}, r"fields.flow: float32 \[2, 4\] is not float32 \[2, 3\]"),
        ({"flow": np.ones((2, 3))}, r"fields.flow: float64 \[2, 3\] is not"),
    ],
)
def test_other_arrays_than_those_of_the_set_are_refused(arrays, message):
    made, _ = record(changes={"fields": arrays})
    with pytest.raises(ValueError, match=message):
        schema.serialize(made, {"flow": StoredField((2, 3), "float32")})


def test_numbers_are_float32_on_disk():
    made, _ = record(changes={"fps": 29.97, "start": 3600.04})
    stored = schema.deserialize(schema.serialize(made, {}), {})
    assert (stored.fps, stored.start) == (np.float32(29.97), np.float32(3600.04))


@pytest.mark.parametrize("size", [(1, 1, 1), (4, 16, 16), (3, 17, 15)])
@pytest.mark.parametrize("codec", ["raw", "h264_lossless"])
def test_exact_codecs_give_every_pixel_back(codec, size):
    made, pixels = record(codec, size)
    np.testing.assert_array_equal(schema.unpack_pixels(made), pixels)


@pytest.mark.parametrize("size", [(1, 1, 1), (4, 16, 16), (3, 17, 15)])
def test_lossy_codec_keeps_the_size(size):
    made, pixels = record("h264", size)
    assert schema.unpack_pixels(made).shape == pixels.shape


@pytest.mark.parametrize(
    ("codec", "changes"),
    [
        ("raw", {"height": 17}),
        ("raw", {"video": b""}),
        ("h264", {"frames": 5}),
        ("h264", {"width": 40}),
        ("h264", {"video": b"no video"}),
        ("raw", {"codec": "h265"}),
    ],
)
def test_records_that_lie_are_refused(codec, changes):
    made, _ = record(codec, changes=changes)
    with pytest.raises(RunError) as caught:
        schema.unpack_pixels(made)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"nonsense", b"\x0a\x03abc"])
def test_bytes_that_are_no_record_are_refused(data):
    with pytest.raises(RunError, match="not a clip record"):
        schema.deserialize(data, {})


def test_wrong_codec_is_named():
    with pytest.raises(ValueError, match="codec: unknown 'h26'; did you mean 'h264'"):
        schema.pack_pixels(np.zeros((1, 4, 4, 3), np.uint8), "h26", 8.0)


@pytest.mark.parametrize("codec", schema.CODECS)
def test_wrong_pixels_are_named(codec):
    with pytest.raises(ValueError, match="expected uint8"):
        schema.pack_pixels(np.zeros((1, 4, 4, 3), np.float32), codec, 8.0)
