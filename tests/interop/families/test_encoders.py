"""What only CLIP, T5 and UMT5 have."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vdm_jax.errors import RunError
from vdm_jax.interop.cases.encoders import CASES
from vdm_jax.interop.component import Component, read, write
from vdm_jax.interop.families.encoders import CLIP_TEXT, CLIP_TEXT_PROJECTED, ENCODERS, T5_ENCODER, UMT5_ENCODER
from vdm_jax.models.encoders.t5 import relative_buckets

TEXT = CASES[0].published
T5 = next(case.published for case in CASES if case.family is T5_ENCODER)


def folder_of(tmp_path, family, options, change=lambda tensors: tensors):
    """A folder with drawn weights, of whose tensors some are changed."""
    config = family.config(options)
    rng = np.random.default_rng(0)
    shapes = family.keymap(config).shapes(family.shapes(config))
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    folder = tmp_path / "published"
    folder.mkdir()
    save_file(change(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"architectures": [family.published], **options}))
    return folder, tensors


def assert_same_files(one, other):
    a, b = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("family", [CLIP_TEXT, CLIP_TEXT_PROJECTED])
@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_either_spelling_of_clip_is_read_and_written_back(tmp_path, family, prefix):
    def respell(tensors):
        bare = {name.removeprefix("text_model."): value for name, value in tensors.items()}
        named = {name if name.startswith("text_projection") else prefix + name: v for name, v in bare.items()}
        return named | {f"{prefix}embeddings.position_ids": np.arange(9)[None]}  # as files of old have

    folder, tensors = folder_of(tmp_path, family, TEXT, respell)
    component = read(folder)
    np.testing.assert_array_equal(
        component.params["tokens"], next(v for k, v in tensors.items() if k.endswith("token_embedding.weight"))
    )
    write(component, tmp_path / "back")
    assert_same_files(folder, tmp_path / "back")


@pytest.mark.parametrize("family", [T5_ENCODER, UMT5_ENCODER])
@pytest.mark.parametrize("names", [("shared.weight",), ("shared.weight", "encoder.embed_tokens.weight")])
def test_the_embedding_of_t5_under_one_name_or_two(tmp_path, family, names):
    def twice(tensors):
        return tensors | dict.fromkeys(names, tensors["shared.weight"])

    folder, _ = folder_of(tmp_path, family, {**T5, "feed_forward_proj": "gated-gelu"}, twice)
    write(read(folder), tmp_path / "back")
    assert_same_files(folder, tmp_path / "back")


def test_two_embeddings_of_t5_are_refused(tmp_path):
    def differ(tensors):
        return tensors | {"encoder.embed_tokens.weight": 2 * tensors["shared.weight"]}

    folder, _ = folder_of(tmp_path, T5_ENCODER, T5, differ)
    with pytest.raises(RunError, match="and its other name have two values"):
        read(folder)


def test_a_projection_that_the_class_does_not_use_is_left_out_and_told(tmp_path):
    def more(tensors):
        return tensors | {"text_projection.weight": np.zeros((3, 3), np.float32)}

    folder, _ = folder_of(tmp_path, CLIP_TEXT, TEXT, more)
    assert read(folder).left_out == ("text_projection.weight",)


@pytest.mark.parametrize("family", ENCODERS, ids=lambda family: family.published)
def test_what_was_made_here_is_written_as_the_published_class_has_it(tmp_path, family):
    transformers = pytest.importorskip("transformers", reason="the published class is the oracle")
    from flax import nnx

    case = next(case for case in CASES if case.family is family)
    config = family.config(case.published)
    params = nnx.to_pure_dict(nnx.state(family.module(config, nnx.Rngs(0)), nnx.Param))
    write(Component(family, config, params), tmp_path / "made")
    cls = getattr(transformers, family.published)
    _, info = cls.from_pretrained(tmp_path / "made", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info


@pytest.mark.parametrize("sizes", [(32, 128), (8, 16), (64, 512)])
def test_buckets_of_every_distance(sizes):
    modeling = pytest.importorskip("transformers.models.t5.modeling_t5", reason="the published class is the oracle")
    import torch

    distance = torch.arange(600)[None, :] - torch.arange(600)[:, None]
    theirs = modeling.T5Attention._relative_position_bucket(distance, True, *sizes)
    np.testing.assert_array_equal(relative_buckets(600, *sizes), theirs.numpy())


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        (CLIP_TEXT, {"hidden_act": "relu"}, "CLIPTextModel: hidden_act='relu' is not supported"),
        (CLIP_TEXT, {"eos_token_id": [1, 2]}, r"eos_token_id=\[1, 2\] is not supported \(only one number\)"),
        (CLIP_TEXT, {"hiden_size": 8}, "unknown 'hiden_size'; did you mean 'hidden_size'"),
        (CLIP_TEXT, {"num_attention_heads": 3}, "heads: 3 must divide dim=16"),
        (CLIP_TEXT, {"model_type": "t5"}, "model_type='t5' is not supported"),
        (T5_ENCODER, {"is_decoder": True}, "is_decoder=True is not supported"),
        (T5_ENCODER, {"feed_forward_proj": "gated-tanh"}, "feed_forward_proj='gated-tanh' is not supported"),
        (UMT5_ENCODER, {"relative_attention_num_buckets": 7}, "buckets: 7 must be even"),
    ],
)
def test_options_that_are_not_built_are_named(family, change, message):
    options = TEXT if family is CLIP_TEXT else T5
    with pytest.raises(ValueError, match=message):
        family.config({**options, **change})
