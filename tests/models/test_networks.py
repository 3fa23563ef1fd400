import jax
import numpy as np
import pytest
from flax import nnx

from vdm_jax.models.dit import DiT
from vdm_jax.models.networks import networks_from
from vdm_jax.models.text import TextEncoder

MODEL = {"kind": "dit", "dim": 16, "depth": 1, "heads": 2}
TEXT = {"dim": 8, "heads": 2, "length": 4}


def test_the_backbone_takes_the_width_of_its_text():
    config = networks_from(MODEL, TEXT)
    assert config.model.text_dim == 8
    networks = jax.eval_shape(lambda: config.make(40, nnx.Rngs(0)))
    assert isinstance(networks["backbone"], DiT)
    assert isinstance(networks["text"], TextEncoder)
    assert networks["text"].tokens.shape == (40, 8)


def test_without_text_there_is_no_encoder():
    networks = jax.eval_shape(lambda: networks_from(MODEL, None).make(0, nnx.Rngs(0)))
    assert networks.keys() == {"backbone"}
    assert networks["backbone"].reads == frozenset()


def test_features_that_come_with_the_data_bring_those_of_the_empty_prompt():
    config = networks_from({**MODEL, "text_dim": 9}, None, 5)
    networks = jax.eval_shape(lambda: config.make(0, nnx.Rngs(0)))
    assert networks.keys() == {"backbone", "null"}
    assert not nnx.state(networks["null"], nnx.Param)
    empty = nnx.eval_shape(lambda null: null(), networks["null"])
    assert (empty["tokens"].shape, empty["tokens_mask"].shape) == ((1, 5, 9), (1, 5))
    assert (config.text_length, config.heads) == (5, (2,))
    assert config.given(2, 4, 4) == {"tokens": ((5, 9), np.float32)}


@pytest.mark.parametrize(("model", "text"), [(MODEL, None), (MODEL, TEXT)], ids=["unconditional", "encoder"])
def test_tokens_without_features_in_the_data_are_refused(model, text):
    with pytest.raises(ValueError, match="config.train.tokens: 5 must be 0"):
        networks_from(model, text, 5)


@pytest.mark.parametrize(
    "section",
    [
        {"kind": "latte", "dim": 16, "depth": 1, "heads": 2},
        {"kind": "cogvideox", "dim": 32, "depth": 1, "heads": 2, "positions": "rope"},
    ],
    ids=lambda section: section["kind"],
)
def test_published_networks_train_like_others(section):
    """What the trainer and `vdm plan` ask of a backbone and its config."""
    config = networks_from(section, TEXT)
    model = config.model
    backbone = jax.eval_shape(lambda: config.make(40, nnx.Rngs(0)))["backbone"]
    assert backbone.reads == model.reads == model.may_read == {"tokens"}
    assert (model.classes, model.scalars, model.text_dim) == (0, (), 8)
    assert model.token_grid(4, 8, 8) == (4, 4, 4)
    assert 0 < model.attention_flops(4, 8, 8, 4) < model.forward_flops(4, 8, 8, 4)
    x = jax.ShapeDtypeStruct((1, 4, 8, 8, model.channels), "float32")
    cond = {"tokens": jax.ShapeDtypeStruct((1, 4, 8), "float32")}
    assert nnx.eval_shape(lambda m, x, c: m(x, x[:, 0, 0, 0, 0], c), backbone, x, cond).shape == x.shape


@pytest.mark.parametrize(
    ("model", "text", "message"),
    [
        ({**MODEL, "text_dim": 9}, TEXT, "config.model.text_dim: 9 must be the text encoder's dim, 8"),
        ({**MODEL, "text_dim": 9}, None, "config.train.tokens: 0 must be the text tokens of a clip"),
        ({**MODEL, "kind": "dti"}, None, "config.model.kind: unknown 'dti'; did you mean 'dit'"),
        ({**MODEL, "deph": 3}, None, "config.model.deph: unknown 'deph'; did you mean 'depth'"),
        (MODEL, {**TEXT, "lenght": 3}, "config.text.lenght: unknown 'lenght'; did you mean 'length'"),
        ({**MODEL, "heads": 3}, None, "config.model.heads: 3 must divide dim=16"),
        ({**MODEL, "pooled_text": True}, None, "config.model.pooled_text: True needs text_dim"),
    ],
)
def test_a_wrong_section_is_named(model, text, message):
    with pytest.raises(ValueError, match=message):
        networks_from(model, text)
