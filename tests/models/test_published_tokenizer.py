"""Published tokenizer folders, against the tokenizers of transformers on the same files."""

import json
import struct

import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, processors, trainers

from vdm_jax.errors import RunError
from vdm_jax.models import prompt_cleaning
from vdm_jax.models.encoders import CLIPTextConfig, T5Config
from vdm_jax.models.published_tokenizer import check_match, read_tokenizer
from vdm_jax.models.tokenizer import Tokenizer

TEXTS = [f"a {c} {s} moves {d}" for c in ("red", "blue") for s in ("square", "ring") for d in ("left", "up", "down")]
PROMPTS = [
    *TEXTS,
    "",
    "A   Red\tSQUARE, it's 42 metres!  Ünheard of 漢字",
    "a red square moves left and so on and so on " * 3,
    "a <|endoftext|> in the middle </s>",
]
START, END = "<|startoftext|>", "<|endoftext|>"


def clip_folder(tmp_path, name="clip", old=False, **said):
    """A folder like that of CLIP: special tokens are the last two ids."""
    inner = tokenizers.Tokenizer(models.BPE(unk_token=END, end_of_word_suffix="</w>", continuing_subword_prefix=""))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    inner.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    split = pre_tokenizers.Split(Regex(words), behavior="removed", invert=True)
    inner.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=620, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    inner.train_from_iterator([*TEXTS, "!"], trainer)
    model = json.loads(inner.to_str())["model"]
    vocab = model["vocab"]
    for letter in alphabet:
        vocab.setdefault(f"{letter}</w>", len(vocab))
    vocab |= {START: len(vocab), END: len(vocab) + 1}
    merges = [tuple(merge) for merge in model["merges"]]
    folder = tmp_path / name
    folder.mkdir()
    if old:
        (folder / "vocab.json").write_text(json.dumps(vocab))
        (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    else:
        inner.model = models.BPE(vocab, merges, unk_token=END, end_of_word_suffix="</w>", continuing_subword_prefix="")
        inner.add_special_tokens([AddedToken(token, normalized=True) for token in (START, END)])
        ends = ((END, vocab[END]), (START, vocab[START]))
        inner.post_processor = processors.RobertaProcessing(*ends, trim_offsets=False, add_prefix_space=False)
        inner.enable_truncation(5)  # as files are left by whoever used them last
        inner.save(str(folder / "tokenizer.json"))
    said = {"tokenizer_class": "CLIPTokenizer", "eos_token": END, "pad_token": END, "model_max_length": 16, **said}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return folder


def t5_pieces():
    trained = tokenizers.Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    specials = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=80, special_tokens=specials, unk_token="<unk>", show_progress=False)
    trained.train_from_iterator(TEXTS, trainer)
    return [tuple(piece) for piece in json.loads(trained.to_str())["model"]["vocab"]]


def t5_folder(tmp_path, pieces):
    """A folder like that of T5 v1.1."""
    extra = [f"<extra_id_{i}>" for i in reversed(range(100))]
    inner = tokenizers.Tokenizer(models.Unigram([*pieces, *((name, 0.0) for name in extra)], unk_id=2))
    spaces = pre_tokenizers.Metaspace(prepend_scheme="always")
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), spaces])
    inner.add_special_tokens(["<pad>", "</s>", "<unk>", *extra])
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folder = tmp_path / "t5"
    folder.mkdir()
    inner.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer"}))
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"eos_token": {"content": "</s>", "lstrip": False}, "pad_token": "<pad>", "unk_token": "<unk>"})
    )
    return folder


def field(number, value):
    """A field of a protocol buffer."""
    key = lambda wire: number << 3 | wire  # noqa: E731
    if isinstance(value, float):
        return bytes([key(5)]) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(key(0)) + varint(value)
    return varint(key(2)) + varint(len(value)) + value


def varint(n):
    return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)


def spiece(pieces, kind=1):
    kinds = {"<pad>": 3, "</s>": 3, "<unk>": 2}
    data = b"".join(
        field(1, field(1, name.encode()) + field(2, score) + field(3, kinds.get(name, 1))) for name, score in pieces
    )
    return data + field(2, field(3, kind) + field(40, 2)) + field(3, field(1, b"nmt_nfkc"))


def assert_like_theirs(ours, theirs, length):
    found = ours.encode(PROMPTS)
    wanted = theirs(
        PROMPTS, padding="max_length", max_length=length, truncation=True, return_tensors="np", add_special_tokens=True
    )
    np.testing.assert_array_equal(found["text_ids"], wanted["input_ids"])
    np.testing.assert_array_equal(found["text_mask"], wanted["attention_mask"].astype(bool))


@pytest.mark.parametrize("pad", [END, "!"])
@pytest.mark.parametrize("old", [False, True])
def test_clip_like_theirs(tmp_path, old, pad):
    transformers = pytest.importorskip("transformers", reason="its tokenizers are the oracle")
    folder = clip_folder(tmp_path, old=old, pad_token=pad)
    ours = read_tokenizer(folder)
    assert ours.length == 16
    assert_like_theirs(ours, transformers.CLIPTokenizer.from_pretrained(folder), 16)
    assert ours.pad == read_tokenizer(folder)._inner.token_to_id(pad)
    check_match(ours, CLIPTextConfig(vocab_size=ours.ids))


@pytest.mark.parametrize("length", [8, 30])
def test_t5_like_theirs(tmp_path, length):
    transformers = pytest.importorskip("transformers", reason="its tokenizers are the oracle")
    folder = t5_folder(tmp_path, t5_pieces())
    ours = read_tokenizer(folder, length)
    assert_like_theirs(ours, transformers.T5Tokenizer.from_pretrained(folder), length)
    assert (ours.pad, ours.end) == (0, 1)
    check_match(ours, T5Config(vocab_size=ours.ids))


def test_t5_from_its_sentencepiece_model(tmp_path):
    pieces = t5_pieces()
    wanted = read_tokenizer(t5_folder(tmp_path, pieces), 30)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "spiece.model").write_bytes(spiece(pieces))
    found = read_tokenizer(tmp_path / "old", 30)
    assert found.ids == wanted.ids == len(pieces) + 100
    for key, value in wanted.encode(PROMPTS).items():
        np.testing.assert_array_equal(found.encode(PROMPTS)[key], value)


def test_what_is_cut_off_is_said(tmp_path):
    ours = read_tokenizer(clip_folder(tmp_path), 5)  # start, three words, end
    prompts = ["a red square moves left", "a red ring", "A  Blue RING moves up and up"]
    assert ours.left_out(prompts) == [" moves left", "", " moves up and up"]
    ours.encode(prompts)
    assert ours.cut == 2


def test_it_is_kept_with_a_run(tmp_path):
    ours = read_tokenizer(clip_folder(tmp_path))
    ours.save(tmp_path / "kept.json")
    again = Tokenizer.load(tmp_path / "kept.json")
    assert again.digest == ours.digest
    np.testing.assert_array_equal(again.encode(PROMPTS)["text_ids"], ours.encode(PROMPTS)["text_ids"])
    assert read_tokenizer(tmp_path / "clip", 8).digest != ours.digest


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda ids: CLIPTextConfig(vocab_size=ids - 1), "the encoder's vocab_size is"),
        (lambda ids: CLIPTextConfig(vocab_size=ids, length=8), "prompts of 16 tokens, the encoder has positions for 8"),
        (lambda ids: CLIPTextConfig(vocab_size=ids, end=7), "the encoder pools at id 7"),
        (lambda ids: T5Config(vocab_size=ids - 1), "the encoder's vocab_size is"),
    ],
)
def test_a_tokenizer_of_another_encoder_is_refused(tmp_path, config, message):
    ours = read_tokenizer(clip_folder(tmp_path))
    with pytest.raises(ValueError, match=message):
        check_match(ours, config(ours.ids))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pad_token": None}, "names no pad_token"),
        ({"pad_token": "<pad>"}, "pad_token '<pad>' is not in its vocabulary"),
        ({"eos_token": "left"}, "eos_token 'left' is not in its vocabulary"),
        ({"eos_token": START}, "puts no eos_token .* behind a prompt"),
        ({"model_max_length": 10**30}, "says no model_max_length"),
        ({"model_max_length": 1}, "length: 1 leaves no room"),
    ],
)
def test_folders_that_lack_something(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        read_tokenizer(clip_folder(tmp_path, **change))


def test_damaged_and_empty_folders(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        read_tokenizer(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no tokenizer\.json"):
        read_tokenizer(tmp_path)
    (tmp_path / "spiece.model").write_bytes(spiece(t5_pieces())[:-3])
    with pytest.raises(RunError, match="not a SentencePiece model"):
        read_tokenizer(tmp_path)
    (tmp_path / "spiece.model").write_bytes(spiece(t5_pieces(), kind=2))
    with pytest.raises(ValueError, match="not a unigram model"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(RunError, match="not a tokenizer that can be read"):
        read_tokenizer(tmp_path)


def test_prompts_are_cleaned_as_published():
    pipeline = pytest.importorskip("diffusers.pipelines.wan.pipeline_wan", reason="its cleaning is the oracle")
    for prompt in [*PROMPTS, " a &amp;lt;b&gt; \n\n c&nbsp;d ", "x &amp;amp;amp; y"]:
        assert prompt_cleaning.wan(prompt) == pipeline.prompt_clean(prompt)
        assert prompt_cleaning.as_it_is(prompt) == prompt
    assert prompt_cleaning.latte("  A Cat ") == "a cat"
