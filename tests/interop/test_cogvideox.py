"""The CogVideoX transformers against those of diffusers."""

import numpy as np
import pytest

from tests.interop.parity import check_case, check_published, published
from vdm_jax.interop.cases.cogvideox import CASES
from vdm_jax.interop.cogvideox import COGVIDEOX

PUBLISHED = {  # file -> tensors, values in millions
    "CogVideoX-2b": (736, 1693.8),
    "CogVideoX-5b": (1024, 5570.3),
    "CogVideoX-5b-I2V": (1025, 5625.1),  # 54.6 of them in the table of positions, to diffusers no parameters
    "CogVideoX1.5-5B": (1024, 5570.7),
    "CogVideoX1.5-5B-I2V": (1028, 5571.6),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_computes_what_the_published_class_computes(case):
    pytest.importorskip("diffusers", reason="the published class is the oracle")
    check_case(case)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_mapped_whole(name):
    pytest.importorskip("diffusers", reason="the published class is the oracle")
    assert check_published(COGVIDEOX, name) == PUBLISHED[name][0]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    shapes = COGVIDEOX.shapes(COGVIDEOX.config(published(name))).values()
    assert round(sum(np.prod(shape) for shape in shapes) / 1e6, 1) == PUBLISHED[name][1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation_fn": "geglu"}, "activation_fn='geglu' is not supported"),
        ({"use_learned_positional_embeddings": True}, "is not supported without use_rotary_positional_embeddings"),
        ({"ofs_embed_dim": 64}, r"ofs_embed_dim=64 is not supported \(only null or 512\)"),
        ({"patch_size_t": 1}, "patch_size_t=1 is not supported"),
        ({"patch_bias": False}, "patch_bias=False is not supported"),
        ({"sample_heigth": 60}, "unknown 'sample_heigth'; did you mean 'sample_height'"),
        ({"in_channels": 8}, "concat_channels: -8 must be 0 or more"),
    ],
)
def test_options_it_does_not_have_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        COGVIDEOX.config(published("CogVideoX-2b") | change)
