import numpy as np
import pytest

from vdm_jax.attention import Policy
from vdm_jax.models.dit import DiTConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attention": "factorized"}, "attention: unknown 'factorized'; did you mean 'factorised'"),
        ({"adaln": "singel"}, "adaln: unknown 'singel'; did you mean 'single'"),
        ({"positions": "sincoss"}, "positions: unknown 'sincoss'; did you mean 'sincos'"),
        ({"qk_norm": "heads"}, "qk_norm: unknown 'heads'; did you mean 'head'"),
        ({"mlp": "swiglo"}, "mlp: unknown 'swiglo'; did you mean 'swiglu'"),
        ({"kernel": "flash"}, "kernel: unknown 'flash'"),
        ({"remat": "fulll"}, "remat: unknown 'fulll'; did you mean 'full'"),
        ({"dim": 12, "heads": 5}, "heads: 5 must divide dim=12"),
        ({"dim": 12, "heads": 4}, "into an even number of channels"),
        ({"heads": 0}, "heads: 0 must be 1 or more"),
        ({"depth": 0}, "depth: 0 must be 1 or more"),
        ({"patch": (1, 0, 2)}, r"patch: \(1, 0, 2\) must be 1 or more"),
        ({"pooled_text": True}, "pooled_text: True needs text_dim"),
        ({"positions": "learned"}, r"grid: \(0, 0, 0\) must be the clip's size in tokens"),
        ({"positions": "apart", "grid": (1, 2, 2)}, "positions: 'apart' needs attention='factorised'"),
        ({"text_projection": "mpl"}, "text_projection: unknown 'mpl'; did you mean 'mlp'"),
    ],
)
def test_a_wrong_field_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        DiTConfig(**fields)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((5, 32, 32), "frames: 5 is not divisible by the patch 2; the nearest that is: 4"),
        ((8, 31, 32), "height: 31 is not divisible by the patch 4; the nearest that is: 32"),
        ((8, 32, 1), "width: 1 is not divisible by the patch 4; the nearest that is: 4"),
        ((10, 32, 32), r"grid: the learned positions end at \(4, 8, 8\) tokens, the clip has \(5, 8, 8\)"),
    ],
)
def test_a_clip_that_cannot_be_cut_is_refused(size, message):
    config = DiTConfig(patch=(2, 4, 4), positions="learned", grid=(4, 8, 8))
    with pytest.raises(ValueError, match=message):
        config.token_grid(*size)
    assert config.token_grid(8, 32, 16) == (4, 8, 4)


def test_it_reads_what_it_was_built_for():
    assert DiTConfig().reads == frozenset()
    fields = {"text_dim": 4, "classes": 2, "concat_channels": 3, "known_channel": True}
    assert DiTConfig(**fields).reads == {"tokens", "vector", "concat", "known"}
    assert DiTConfig(**fields).in_channels == 3 + 3 + 1
    assert DiTConfig(scalars=("fps",)).reads == {"vector"}


@pytest.mark.parametrize("form", ["full", "factorised"])
def test_causal_models_are_charged_for_what_they_see(form):
    """Scores and values cost 4 D a visible pair, and the policy says which pairs those are."""
    free, causal = (DiTConfig(dim=24, depth=1, attention=form, causal=c) for c in (False, True))
    saved = free.forward_flops(5, 8, 6) - causal.forward_flops(5, 8, 6)
    tokens, space = 5 * 4 * 3, 4 * 3
    if form == "full":
        hidden = tokens**2 - int(np.asarray(Policy(causal=True, unit=space).dense(tokens, tokens)).sum())
    else:
        hidden = space * (5**2 - int(np.asarray(Policy(causal=True).dense(5, 5)).sum()))
    assert saved == pytest.approx(4 * 24 * hidden)
