"""What only the Latte transformer has."""

import pytest

from tests.interop.parity import published
from vdm_jax.interop.families.latte import LATTE


def test_options_of_the_authors_own_class_are_read():
    old = {"attention_type": "default", "norm_num_groups": 32, "upcast_attention": False, "num_vector_embeds": None}
    assert LATTE.config(published("Latte-1") | old) == LATTE.config(published("Latte-1"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm_type": "ada_norm_zero"}, "norm_type='ada_norm_zero' is not supported"),
        ({"attention_bias": False}, "attention_bias=False is not supported"),
        ({"cross_attention_dim": 768}, r"cross_attention_dim=768 is not supported \(only 1152\)"),
        ({"out_channels": 5}, r"out_channels=5 is not supported \(only 4 or 8\)"),
        ({"upcast_attention": True}, "upcast_attention=True is not supported"),
        ({"video_lenght": 8}, "unknown 'video_lenght'; did you mean 'video_length'"),
    ],
)
def test_options_it_does_not_have_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        LATTE.config(published("Latte-1") | change)


def test_an_option_that_the_file_leaves_out_is_that_of_the_class():
    """Theirs has geglu by default, which is not built here: silence must not stand for what is."""
    options = published("Latte-1")
    del options["activation_fn"]
    with pytest.raises(ValueError, match="activation_fn='geglu' is not supported"):
        LATTE.config(options)
