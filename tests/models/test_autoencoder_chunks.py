"""Clips in chunks against clips at once."""

import jax
import numpy as np
import pytest

from tests.models.tiny_autoencoders import draw, make
from vdm_jax.models.autoencoders import in_chunks, stream
from vdm_jax.models.autoencoders.chunks import first_chunk

EXACT = {"rtol": 1e-5, "atol": 1e-5}  # float32: the compiler sums in another order


@pytest.mark.parametrize(("name", "chunk"), [("kl", 4), ("wan", 1), ("wan 2.2", 4)])  # 6 are 1 + 5 x 1, and 2 + 1 x 4
def test_chunks_of_any_size_are_the_whole(name, chunk):
    network = make(name)
    grid = network.config.grid
    clip = draw(1, grid.clip_frames(6), 2 * grid.side, grid.side, 3)

    def both(clip, chunk):
        posterior = network.encode(clip, chunk)
        return posterior.mean, posterior.logvar, network.decode(posterior.mean, chunk)

    run = jax.jit(both, static_argnums=1)
    whole = run(clip, None)
    assert whole[2].shape == clip.shape
    for got, want in zip(run(clip, chunk), whole, strict=True):
        np.testing.assert_allclose(got, want, **EXACT)


def test_chunks_forget_nothing_that_matters():
    """Without the past of the chunk before the result is another one: the equality above is not that of nothing."""
    network = make("wan")
    latents = draw(1, 4, 2, 2, 2)
    forgetful = jax.jit(lambda z: in_chunks(lambda x, past: (network.decode_chunk(x)[0], ()), z, 1, 1))
    whole = jax.jit(network.decode)(latents)
    assert forgetful(latents).shape[1] == 4  # every chunk begins a clip
    assert np.abs(np.asarray(forgetful(latents)[:, 1] - whole[:, 1])).max() > 1e-3


def test_no_frame_sees_a_later_one():
    network = make("wan")
    latents = draw(1, 4, 2, 2, 2)
    decode = jax.jit(network.decode)
    one, other = decode(latents), decode(latents.at[:, 2:].add(1.0))
    seen = np.abs(np.asarray(one - other)).max(axis=(0, 2, 3, 4)) > 0
    assert seen.tolist() == [False] * 3 + [True] * 4


def test_a_stream_is_the_whole_and_compiles_twice():
    network = make("cogvideox")
    traced = []

    def step(latents, past):
        traced.append(latents.shape)
        return network.decode_chunk(latents, past)

    latents = draw(1, 8, 2, 2, 2)
    pieces = [latents[:, i : i + 2] for i in range(0, 8, 2)]
    clip = np.concatenate(list(stream(jax.jit(step), pieces)), axis=1)
    assert len(traced) == 2
    np.testing.assert_allclose(clip, jax.jit(network.decode)(latents), **EXACT)


def test_frames_decoded_together_see_each_other_and_no_others():
    network = make("temporal")
    latents = draw(1, 5, 4, 4, 2)
    decode = jax.jit(network.decode, static_argnums=1)
    pieces = [decode(latents[:, i : i + 2], None) for i in (0, 2, 4)]
    np.testing.assert_allclose(decode(latents, 2), np.concatenate(pieces, axis=1), **EXACT)
    assert np.abs(np.asarray(decode(latents, 2) - decode(latents, None))).max() > 1e-3


def test_working_memory_is_that_of_a_chunk():
    network = make("wan")

    def temporaries(frames: int, chunk: int | None) -> int:
        shape = jax.ShapeDtypeStruct((1, frames, 32, 32, 2), np.float32)
        compiled = jax.jit(lambda z: network.decode(z, chunk)).lower(shape).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    def growth(chunk: int | None) -> float:
        """Bytes for each byte of a clip that is longer."""
        return (temporaries(33, chunk) - temporaries(17, chunk)) / (32 * 128 * 128 * 3 * 4)

    assert growth(2) < 1.5  # the clip itself
    assert growth(None) > 4  # layers in between, too


def test_the_first_chunk_takes_what_is_left_over():
    assert [first_chunk(n, 4) for n in (1, 2, 4, 5, 8, 9)] == [1, 2, 4, 1, 4, 1]
