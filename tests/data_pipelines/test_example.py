"""The reader of records says what protobuf says, of any message, and refuses what is none."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_datasets.proto import tf_example_pb2

from data_pipelines.shards.example import Example

NAMES = st.text(max_size=8)
VALUES = st.one_of(
    st.binary(max_size=300),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(width=32, allow_nan=False),
    st.text(max_size=40),
)


def message(fields) -> bytes:
    """What protobuf makes of them."""
    example = tf_example_pb2.Example()
    for name, value in fields.items():
        feature = example.features.feature[name]
        if isinstance(value, int):
            feature.int64_list.value.append(value)
        elif isinstance(value, float):
            feature.float_list.value.append(value)
        else:
            feature.bytes_list.value.append(value.encode() if isinstance(value, str) else value)
    return example.SerializeToString()


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=6))
def test_values_are_those_that_protobuf_wrote(fields):
    read = Example(message(fields))
    for name, value in fields.items():
        assert read.value(name, type(value)) == value


@pytest.mark.parametrize(("shape", "dtype"), [((2, 3), np.float32), ((None, 2), np.float16), ((0, None), np.uint8)])
def test_arrays_are_views(shape, dtype):
    stored = np.arange(6, dtype=dtype).reshape(shape if None not in shape else (3, 2)) if 0 not in shape else b""
    data = message({"x": bytes(stored)})
    array = Example(data).array("x", shape, np.dtype(dtype))
    assert array.dtype == dtype
    if 0 in shape:
        assert array.shape == (0, 0)
    else:
        np.testing.assert_array_equal(array, stored)
        assert not array.flags.owndata


def test_what_is_not_there_or_of_another_kind_is_named():
    read = Example(message({"number": 3, "text": b"\xff"}))
    with pytest.raises(KeyError, match="no field 'other'"):
        read.value("other", int)
    with pytest.raises(KeyError, match="'number' holds no float"):
        read.value("number", float)
    with pytest.raises(UnicodeDecodeError):
        read.value("text", str)
    with pytest.raises(ValueError, match="size"):
        read.array("text", (2,), np.dtype(np.float32))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_other_bytes_are_refused_or_empty(data):
    try:
        read = Example(data)
    except ValueError:
        return
    with pytest.raises(KeyError):
        read.value("video", bytes)


def test_a_record_that_breaks_off_is_refused():
    data = message({"video": b"x" * 200, "fps": 8.0})
    for length in range(1, len(data)):
        with pytest.raises(ValueError, match="not a tf.train.Example"):
            Example(data[:length])
