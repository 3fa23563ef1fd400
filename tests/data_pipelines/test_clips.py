"""Batches: the pixels, captions and numbers of exactly the clips that were picked."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from data_pipelines.loading.clips import BatchAssembler, CachedClips, Picks
from data_pipelines.shards.reader import ClipSource


@pytest.fixture(scope="module")
def source(shards):
    return ClipSource(shards, "train")


def picks(index, start=0, flip=False):
    count = len(index)
    return Picks(np.array(index), np.broadcast_to(start, count), np.broadcast_to(flip, count))


@pytest.fixture(params=["direct", "cached"])
def clips(request, source):
    return source if request.param == "direct" else CachedClips(source)


def test_batch_holds_what_was_picked(clips, source):
    batch = BatchAssembler(clips, 8, None)(picks([5, 0, 5]))
    assert (batch["video"].dtype, batch["fps"].dtype, batch["index"].dtype) == (np.uint8, np.float32, np.int64)
    assert batch["caption"].tolist() == [source[i]["caption"] for i in (5, 0, 5)]
    assert batch["index"].tolist() == [5, 0, 5]
    np.testing.assert_array_equal(batch["video"], np.stack([source[i]["video"] for i in (5, 0, 5)]))


def test_starts_and_flips_are_applied(clips, source):
    batch = BatchAssembler(clips, 3, None)(picks([1, 2], start=np.array([0, 5]), flip=np.array([True, False])))
    np.testing.assert_array_equal(batch["video"][0], source[1]["video"][:3, :, ::-1])
    np.testing.assert_array_equal(batch["video"][1], source[2]["video"][5:])


def test_batch_is_independent_of_the_cache(source):
    clips = CachedClips(source)
    assemble = BatchAssembler(clips, 8, None)
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

    batch = BatchAssembler(source, 8, tokenize)(picks([0, 9]))
    assert "caption" not in batch
    assert batch["text_ids"].tolist() == [[len(source[0]["caption"])], [len(source[9]["caption"])]]


def test_tokenizer_of_the_wrong_length_is_named(source):
    with pytest.raises(ValueError, match=r"tokenizer_fn: 'text_ids' has shape \[1\] for 2 captions"):
        BatchAssembler(source, 8, lambda _: {"text_ids": np.zeros(1)})(picks([0, 1]))
