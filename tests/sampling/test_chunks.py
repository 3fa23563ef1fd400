import numpy as np
import pytest

from vdm_jax.sampling.chunks import chunks


def counting(chunk, seen):
    """Chunks whose frames count on from those that they were given."""

    def generate(number, given):
        seen.append((number, None if given is None else given[0, :, 0].tolist()))
        first = 0 if given is None else given[0, 0, 0]
        return np.broadcast_to(first + np.arange(chunk)[None, :, None], (2, chunk, 3))

    return generate


@pytest.mark.parametrize(
    ("frames", "chunk", "overlap", "lengths"),
    [(8, 8, 3, [8]), (5, 8, 3, [5]), (18, 8, 3, [8, 5, 5]), (15, 8, 3, [8, 5, 2]), (10, 4, 3, [4, 1, 1, 1, 1, 1, 1])],
)
def test_chunks_join_without_a_seam(frames, chunk, overlap, lengths):
    seen = []
    parts = list(chunks(counting(chunk, seen), frames, chunk, overlap))
    assert [part.shape[1] for part in parts] == lengths
    video = np.concatenate(parts, axis=1)
    np.testing.assert_array_equal(video[1, :, 2], np.arange(frames))
    assert [number for number, _ in seen] == list(range(len(lengths)))
    assert seen[0][1] is None
    starts = np.cumsum([0] + [chunk - overlap] * (len(lengths) - 1))
    assert all(given == list(range(start, start + overlap)) for (_, given), start in zip(seen[1:], starts[1:]))


def test_a_video_may_begin_with_given_frames():
    seen = []
    parts = list(chunks(counting(4, seen), 7, 4, 2, given=np.full((2, 2, 3), 5) + np.arange(2)[None, :, None]))
    np.testing.assert_array_equal(np.concatenate(parts, axis=1)[0, :, 0], 5 + np.arange(7))
    assert seen[0] == (0, [5, 6])


def test_without_overlap_a_generator_remembers_by_itself():
    seen = []
    video = np.concatenate(list(chunks(counting(4, seen), 9, 4, 0)), axis=1)
    np.testing.assert_array_equal(video[0, :, 0], [0, 1, 2, 3, 0, 1, 2, 3, 0])
    assert [given for _, given in seen] == [None, None, None]


def test_clips_may_be_dicts():
    def generate(number, given):
        return {"video": np.full((1, 4, 2), number), "audio": np.full((1, 4), number)}

    parts = list(chunks(generate, 6, 4, 1))
    assert [part["audio"].shape for part in parts] == [(1, 4), (1, 2)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"overlap": 4}, "overlap: 4 frames must be at least 0 and below the 4 frames of a chunk"),
        ({"overlap": -1}, "overlap: -1"),
        ({"frames": 0}, "frames: 0 must be 1 or more"),
        ({"given": np.zeros((1, 3, 2))}, "given: 3 frames, but a chunk begins with overlap=1 of them"),
    ],
)
def test_what_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):  # before anything is generated
        chunks(**{"generate_chunk": counting(4, []), "frames": 8, "chunk": 4, "overlap": 1, **fields})


def test_a_chunk_of_another_length_is_refused():
    with pytest.raises(ValueError, match="generate_chunk: made 5 frames, a chunk has 4"):
        list(chunks(counting(5, []), 8, 4, 1))
