"""Prompts encoded in batches and kept."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import tokenizers
from flax import nnx
from tokenizers import models, pre_tokenizers, processors

from vdm_jax.errors import RunError
from vdm_jax.interop.cases.encoders import CASES
from vdm_jax.interop.component import read
from vdm_jax.interop.finetuning.prompts import LATTE, PLAIN, WAN, PromptEncoder, Reading, encoder_digest
from vdm_jax.interop.parity import build_published, redraw, relative_error
from vdm_jax.models import prompt_cleaning
from vdm_jax.models.encoders import T5, CLIPText, CLIPTextConfig, T5Config
from vdm_jax.models.published_tokenizer import read_tokenizer
from vdm_jax.models.tokenizer import Tokenizer

WORDS = ["<pad>", "</s>", "<unk>", "a", "red", "blue", "square", "moves", "left", "&"]
LENGTH = 6
CONFIG = T5Config(vocab_size=12, dim=8, depth=2, heads=2, head_dim=4, mlp_dim=8)
PROMPTS = ["a red square", "a &amp;  blue square", "", "a red square", "a red square moves left a red square"]


def tokenizer(length=LENGTH):
    inner = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return Tokenizer(inner, length)


def t5(seed=0):
    network = T5(CONFIG, nnx.Rngs(seed))
    network.tokens[...] = 3 * jax.random.normal(jax.random.key(seed), network.tokens.shape)
    return network


def encoder(reading=WAN, seed=0, length=LENGTH, **options):
    network = t5(seed)
    digest = encoder_digest(nnx.to_pure_dict(nnx.state(network, nnx.Param)))
    return PromptEncoder(network, tokenizer(length), reading, digest, **options)


def by_hand(reading, prompts=PROMPTS):
    made = tokenizer().encode([reading.clean(prompt) for prompt in prompts])
    ids, mask = jnp.asarray(made["text_ids"]), jnp.asarray(made["text_mask"])
    tokens = jax.jit(lambda: t5()(ids, mask if reading.masked else None).tokens)()
    return np.where(mask[..., None], tokens, 0) if reading.zeroed else np.asarray(tokens), made["text_mask"]


@pytest.mark.parametrize("reading", [WAN, LATTE, PLAIN], ids=["wan", "latte", "plain"])
def test_batches_are_what_each_prompt_alone_is(reading):
    found = encoder(reading, batch=2).encode(PROMPTS)
    tokens, mask = by_hand(reading)
    np.testing.assert_allclose(found["tokens"], tokens, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found["tokens_mask"], mask)
    assert found.keys() == {"tokens", "tokens_mask"}
    assert (found["tokens"][~mask] == 0).all() == reading.zeroed


def test_what_is_kept_is_read_and_never_made_again(tmp_path):
    first = encoder(batch=2)
    made = first.encode(PROMPTS, tmp_path)
    files = sorted(tmp_path.rglob("*"))
    assert len([file for file in files if file.is_file()]) == 4  # different ones
    assert all(file.suffix == ".safetensors" for file in files if file.is_file())
    again = encoder(batch=2)
    again._run = None  # nothing is left to compute
    for name, value in again.encode(PROMPTS, tmp_path).items():
        np.testing.assert_array_equal(value, made[name])
    assert sorted(tmp_path.rglob("*")) == files


@pytest.mark.parametrize(
    "other",
    [
        {"reading": LATTE},
        {"reading": Reading(prompt_cleaning.wan, masked=True, zeroed=True, skip=1)},
        {"seed": 1},
        {"length": 8},
        {"dtype": ml_dtypes.bfloat16},
    ],
    ids=["reading", "skip", "weights", "length", "dtype"],
)
def test_another_encoder_has_its_own(tmp_path, other):
    encoder(batch=4).encode(PROMPTS[:1], tmp_path)
    different = encoder(**other, batch=4)
    found = different.encode(PROMPTS[:1], tmp_path)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    kept = encoder(**other, batch=4).encode(PROMPTS[:1], tmp_path)
    assert kept["tokens"].dtype == found["tokens"].dtype == other.get("dtype", np.float32)
    np.testing.assert_array_equal(kept["tokens"].astype(np.float32), found["tokens"].astype(np.float32))


def test_what_is_over_the_limit_is_said():
    found = encoder()
    found.encode(PROMPTS)
    assert found.cut == {PROMPTS[-1]: " a red square"}


def test_a_damaged_file_is_named(tmp_path):
    encoder().encode(PROMPTS[:1], tmp_path)
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(RunError, match=f"{file.name}: has .* cut off"):
        encoder().encode(PROMPTS[:1], tmp_path)


def test_clip_gives_pooled_features_and_skips_blocks():
    config = CLIPTextConfig(vocab_size=12, dim=8, depth=2, heads=2, mlp_dim=8, projection=5, length=LENGTH, end=1)
    network = CLIPText(config, nnx.Rngs(0))
    skipping = PromptEncoder(network, tokenizer(), Reading(skip=1), "weights").encode(PROMPTS[:2])
    made = tokenizer().encode(PROMPTS[:2])
    out = jax.jit(lambda: network(jnp.asarray(made["text_ids"]), skip=1))()
    np.testing.assert_allclose(skipping["tokens"], network.norm(out.hidden), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(skipping["pooled"], out.pooled, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(skipping["projected"], out.projected, rtol=1e-5, atol=1e-5)
    assert np.abs(skipping["tokens"] - out.tokens).max() > 1e-3


PIPELINES = {"wan.pipeline_wan:WanPipeline": WAN, "cogvideo.pipeline_cogvideox:CogVideoXPipeline": PLAIN}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_whole_pipeline_encodes_prompts_alike(tmp_path, name):
    """Cleaning, tokenizer, padding, encoder, and what is done to the padding after it."""
    module, _, kind = name.partition(":")
    pipeline = pytest.importorskip(f"diffusers.pipelines.{module}", reason="the published pipeline is the oracle")
    import transformers

    published, family = next((c.published, c.family) for c in CASES if c.family.published == "UMT5EncoderModel")
    inner = tokenizer()._inner
    inner.save(str(tmp_path / "tokenizer.json"))
    said = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "model_max_length": 99}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    theirs = build_published(family, published)
    redraw(theirs, 0.1)
    theirs.save_pretrained(tmp_path / "encoder")
    stage = SimpleNamespace(
        tokenizer=transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path), text_encoder=theirs
    )
    wanted = getattr(pipeline, kind)._get_t5_prompt_embeds(
        stage, PROMPTS, max_sequence_length=LENGTH, device="cpu", dtype=theirs.dtype
    )
    component = read(tmp_path / "encoder")
    made = read_tokenizer(tmp_path, LENGTH)
    ours = PromptEncoder(component.network(), made, PIPELINES[name], encoder_digest(component.params))
    found = ours.encode(PROMPTS)["tokens"]
    assert relative_error(found, wanted.detach().numpy()) < 1e-5


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="prompts: none given"):
        encoder().encode([])
    with pytest.raises(ValueError, match="batch: 0 must be"):
        encoder(batch=0)
    with pytest.raises(ValueError, match="has ids up to 9, the encoder's vocab_size is 9"):
        PromptEncoder(T5(T5Config(9, 8, 1, 2, 4, 8), nnx.Rngs(0)), tokenizer(), WAN, "")
