"""Batches: the pixels, captions and numbers of exactly the clips that were picked."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from data_pipelines.loading import clips as loading
from data_pipelines.loading.clips import CachedClips, check_bucket, shrink
from data_pipelines.loading.order import Picks
from data_pipelines.shards.manifest import ClipSpec
from data_pipelines.shards.reader import ClipSource
from vdm_jax.types import Bucket


@pytest.fixture(scope="module")
def source(shards):
    return ClipSource(shards, "train")


def picks(index, place=0.0, flip=False):
    count = len(index)
    return Picks(np.array(index), np.broadcast_to(place, count), np.broadcast_to(flip, count))


def assembler(clips, frames, tokenizer_fn, **bucket):
    """Of clips of 16x16 unless `bucket` says otherwise."""
    shape = {"frames": frames, "height": 16, "width": 16, "batch": 2, **bucket}
    return loading.BatchAssembler(clips, Bucket(**shape), tokenizer_fn)


@pytest.fixture(params=["direct", "cached"])
def clips(request, source):
    return source if request.param == "direct" else CachedClips(source)


def test_batch_holds_what_was_picked(clips, source):
    batch = assembler(clips, 8, None)(picks([5, 0, 5]))
    assert (batch["video"].dtype, batch["fps"].dtype, batch["index"].dtype) == (np.uint8, np.float32, np.int64)
    assert batch["caption"].tolist() == [source[i]["caption"] for i in (5, 0, 5)]
    assert batch["index"].tolist() == [5, 0, 5]
    np.testing.assert_array_equal(batch["video"], np.stack([source[i]["video"] for i in (5, 0, 5)]))


def test_starts_and_flips_are_applied(clips, source):
    batch = assembler(clips, 3, None)(picks([1, 2], place=np.array([0.0, 0.99]), flip=np.array([True, False])))
    np.testing.assert_array_equal(batch["video"][0], source[1]["video"][:3, :, ::-1])
    np.testing.assert_array_equal(batch["video"][1], source[2]["video"][5:])


def test_batch_is_independent_of_the_cache(source):
    clips = CachedClips(source)
    assemble = assembler(clips, 8, None)
    batch = assemble(picks([3]))
    batch["video"][:] = 7
    np.testing.assert_array_equal(assemble(picks([3]))["video"][0], source[3]["video"])


def test_cache_decodes_each_clip_once(source):
    class Counting:
        manifest = source.manifest
        asked = 0

        def __len__(self):
            return len(source)

        def __getitem__(self, index):
            self.asked += 1
            return source[index]

    counting = Counting()
    clips = CachedClips(counting)
    for index in (4, 4, 2, 4, 2):
        np.testing.assert_array_equal(clips[index]["video"], source[index]["video"])
    assert counting.asked == 2
    assert len(clips) == len(source)


def test_cache_is_safe_for_threads(source):
    clips = CachedClips(source)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(clips.__getitem__, [i % 24 for i in range(192)]))
    for i, clip in enumerate(together):
        np.testing.assert_array_equal(clip["video"], source[i % 24]["video"])


def test_tokenizer_takes_the_place_of_captions(source):
    def tokenize(captions):
        assert isinstance(captions, list)
        return {"text_ids": np.array([[len(c)] for c in captions], np.int32), "text_mask": np.ones((len(captions), 1))}

    batch = assembler(source, 8, tokenize)(picks([0, 9]))
    assert "caption" not in batch
    assert batch["text_ids"].tolist() == [[len(source[0]["caption"])], [len(source[9]["caption"])]]


def test_tokenizer_of_the_wrong_length_is_named(source):
    with pytest.raises(ValueError, match=r"tokenizer_fn: 'text_ids' has shape \[1\] for 2 captions"):
        assembler(source, 8, lambda _: {"text_ids": np.zeros(1)})(picks([0, 1]))


def test_smaller_pictures_are_means(clips, source):
    batch = assembler(clips, 1, None, height=8, width=8)(picks([4]))
    first = source[4]["video"][:1].astype(np.float64)
    means = first.reshape(1, 8, 2, 8, 2, 3).mean((2, 4))
    assert batch["video"].shape == (1, 1, 8, 8, 3)
    assert np.abs(batch["video"][0] - means).max() <= 0.5
    np.testing.assert_array_equal(shrink(np.full((1, 4, 4, 3), 255, np.uint8), 4), 255)


def test_packed_clips_share_a_sequence(clips, source):
    def tokenize(captions):
        return {"text_ids": np.array([[len(c)] for c in captions], np.int32)}

    batch = assembler(clips, 8, tokenize, pack=(5, 2, 1))(picks([3, 1, 7, 2, 3, 0]))
    assert {key: value.shape for key, value in batch.items()} == {
        "video": (2, 8, 16, 16, 3),
        "segments": (2, 8),
        "fps": (2, 3),
        "index": (2, 3),
        "text_ids": (2, 3, 1),
    }
    assert batch["segments"].tolist() == [[0, 0, 0, 0, 0, 1, 1, 2]] * 2
    assert batch["index"].tolist() == [[3, 1, 7], [2, 3, 0]]
    parts = [source[2]["video"][:5], source[3]["video"][:2], source[0]["video"][:1]]
    np.testing.assert_array_equal(batch["video"][1], np.concatenate(parts))
    assert batch["text_ids"][1, :, 0].tolist() == [len(source[i]["caption"]) for i in (2, 3, 0)]


@pytest.mark.parametrize(("sizes", "message"), [
    ((9, 16, 16), "data.frames: 9, but the clips of x have 8"),
    ((8, 12, 12), r"data.height: 12, but the clips of x have 16 \(or 8x8, 4x4, their means\)"),
    ((8, 8, 16), "data.width: 16, but the clips of x have 16"),
])  # fmt: skip
def test_what_a_set_cannot_fill_is_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        check_bucket(Bucket(*sizes, 4), ClipSpec(8, 16, 16, "raw"), "x", "data")
    check_bucket(Bucket(8, 4, 4, 4), ClipSpec(8, 16, 16, "raw"), "x", "data")


@pytest.mark.parametrize("factor", [2, 3, 16, 17])
def test_means_are_rounded_and_never_overflow(factor):
    rng = np.random.default_rng(factor)
    video = rng.integers(0, 256, (2, 2 * factor, 3 * factor, 3), np.uint8)
    exact = video.reshape(2, 2, factor, 3, factor, 3).sum((2, 4), dtype=np.int64) / factor**2
    np.testing.assert_array_equal(shrink(video[:, :, ::-1], factor), np.floor(exact + 0.5)[:, :, ::-1])
    np.testing.assert_array_equal(shrink(np.full_like(video, 255), factor), 255)
