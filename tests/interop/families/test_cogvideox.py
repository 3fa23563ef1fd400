"""What only the CogVideoX transformers have."""

import pytest

from tests.interop.parity import published
from vdm_jax.interop.families.cogvideox import COGVIDEOX


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
