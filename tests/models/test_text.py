import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.errors import RunError
from vdm_jax.models.text import TextConfig, TextEncoder
from vdm_jax.models.tokenizer import Tokenizer

WORDS = [f"a {c} {s} moves {d}" for c in ("red", "blue") for s in ("square", "ring") for d in ("left", "up", "down")]
CONFIG = TextConfig(vocab_size=300, length=10, dim=8, depth=2, heads=2)


def tokenizer(kind="bpe", length=10):
    return Tokenizer.train(WORDS, TextConfig(tokenizer=kind, vocab_size=300, length=length, dim=8, heads=2))


@pytest.mark.parametrize("kind", ["bpe", "bytes"])
def test_training_twice_gives_the_same_tokenizer_and_so_does_the_disk(kind, tmp_path):
    one, two = tokenizer(kind), tokenizer(kind)
    one.save(tmp_path / "a.json")
    two.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    loaded = Tokenizer.load(tmp_path / "a.json")
    assert (loaded.vocab_size, loaded.length) == (one.vocab_size, one.length)
    prompts = [*WORDS, "", "Ünheard of: 漢字", "a red square moves left and so on and so on"]
    for key, want in one.encode(prompts).items():
        np.testing.assert_array_equal(loaded.encode(prompts)[key], want)


def test_ids_and_mask_have_one_length():
    encoded = tokenizer().encode(["a red ring moves up", ""])
    ids, mask = encoded["text_ids"], encoded["text_mask"]
    assert (ids.shape, ids.dtype, mask.shape, mask.dtype) == ((2, 10), np.int32, (2, 10), bool)
    lengths = mask.sum(1)
    assert lengths[1] == 2  # the empty prompt: start and end
    np.testing.assert_array_equal(mask, np.arange(10) < lengths[:, None])
    assert not ids[~mask].any()
    assert ids[0, 0] == ids[1, 0]
    assert ids[0, lengths[0] - 1] == ids[1, 1]
    assert tokenizer().encode([])["text_ids"].shape == (0, 10)


def test_subwords_are_shorter_than_bytes():
    subwords, raw = tokenizer("bpe", 40), tokenizer("bytes", 40)
    assert raw.vocab_size == 256 + 3
    assert raw.vocab_size < subwords.vocab_size <= 300
    prompt = "a red square moves left"
    assert raw.encode([prompt])["text_mask"].sum() == len(prompt) + 1 + 2  # with the space put in front
    assert subwords.encode([prompt])["text_mask"].sum() < len(prompt) / 2


def test_prompts_that_are_too_long_are_cut_and_counted():
    short = tokenizer("bytes", 6)
    encoded = short.encode(["red", "a red square", "blue ring"])
    assert short.cut == 2
    assert encoded["text_mask"][1:].all()
    whole = tokenizer("bytes", 40).encode(["a red square"])["text_ids"][0]
    np.testing.assert_array_equal(encoded["text_ids"][1], [*whole[:5], encoded["text_ids"][0, 5]])


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"length": 3, "tokenizer": {"model": 1}}'])
def test_a_damaged_tokenizer_is_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "t.json").write_text(content)
    with pytest.raises(RunError, match=r"t\.json: not a tokenizer that can be read") as caught:
        Tokenizer.load(tmp_path / "t.json")
    assert "\n" not in str(caught.value)


def test_the_file_is_readable_json(tmp_path):
    tokenizer().save(tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text())["length"] == 10


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokenizer": "byte"}, "tokenizer: unknown 'byte'; did you mean 'bytes'"),
        ({"length": 1}, "length: 1 leaves no room"),
        ({"dim": 10, "heads": 4}, "heads: 4 must divide dim=10"),
        ({"heads": 0}, "heads: 0 must be 1 or more"),
        ({"depth": 0}, "depth: 0 must be 1 or more"),
    ],
)
def test_a_wrong_field_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        TextConfig(**fields)


def test_the_encoder_ignores_padding():
    encoder = TextEncoder(CONFIG, 300, nnx.Rngs(0))
    encoded = {key: jnp.asarray(value) for key, value in tokenizer().encode(["a red ring moves up", "a"]).items()}
    ids, mask = encoded["text_ids"], encoded["text_mask"]
    out = encoder(ids, mask)
    assert out["tokens"].shape == (2, 10, 8)
    np.testing.assert_array_equal(out["tokens_mask"], mask)
    real = np.asarray(mask)
    other = encoder(jnp.where(mask, ids, 77), mask)["tokens"]
    np.testing.assert_allclose(np.asarray(other)[real], np.asarray(out["tokens"])[real], rtol=1e-6, atol=1e-6)
    seen = encoder(ids.at[0, 1].set(77), mask)["tokens"]
    assert np.abs(np.asarray(seen - out["tokens"])[0, 0]).max() > 1e-6
    assert encoder(ids, mask, jnp.bfloat16)["tokens"].dtype == jnp.bfloat16


def test_the_order_of_words_matters():
    encoder = TextEncoder(CONFIG, 300, nnx.Rngs(0))
    ids, mask = jnp.array([[1, 5, 6, 2], [1, 6, 5, 2]]), jnp.ones((2, 4), bool)
    tokens = encoder(ids, mask)["tokens"]
    assert np.abs(np.asarray(tokens[0, 0] - tokens[1, 0])).max() > 1e-6


def test_every_part_of_the_encoder_learns():
    encoder = TextEncoder(CONFIG, 300, nnx.Rngs(0))
    graphdef, state = nnx.split(encoder)
    ids, mask = jnp.array([[1, 5, 6, 2]]), jnp.ones((1, 4), bool)
    weights = jax.random.normal(jax.random.key(0), (1, 4, 8))

    def total(state):
        return (nnx.merge(graphdef, state)(ids, mask)["tokens"] * weights).sum()

    grads = jax.jit(jax.grad(total))(state)
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(grads))
