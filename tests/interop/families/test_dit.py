"""The DiT as a published class: the same function where its options make it one, and named where they do not."""

import jax
import numpy as np
import pytest

from tests.interop.exporting.test_torch_modules import drawn, ours
from vdm_jax.interop.component import Component, read, write
from vdm_jax.interop.families.dit import DIT, published_form, published_params
from vdm_jax.interop.families.latte import LATTE
from vdm_jax.interop.families.wan import WAN
from vdm_jax.interop.parity import open_published, relative_error
from vdm_jax.models.dit import DiTConfig

B, T, H, W, L, E = 2, 3, 4, 6, 5, 6
TINY = {"dim": 24, "depth": 2, "heads": 2, "text_dim": E, "text_projection": "mlp", "cross_norm": False}
AS_WAN = {**TINY, "qk_norm": "all"}
AS_LATTE = {
    **TINY,
    "attention": "factorised",
    "rope": False,
    "qk_norm": "none",
    "positions": "apart",
    "grid": (T, 5, 5),
}
FORMS = {
    "wan": (WAN, {**AS_WAN, "patch": (1, 2, 2), "mlp_dim": 40}),
    "wan with a norm before the text, and frames given": (WAN, {**AS_WAN, "cross_norm": True, "concat_channels": 2}),
    "latte": (LATTE, AS_LATTE),
}


@pytest.mark.parametrize("name", FORMS)
def test_it_is_the_published_class(name, tmp_path):
    torch = pytest.importorskip("torch", reason="the published class is the oracle")
    pytest.importorskip("diffusers", reason="the published class is the oracle")
    family, fields = FORMS[name]
    component = drawn(DIT, DiTConfig(**fields))
    found, config = published_form(component.config)
    assert found is family
    write(Component(family, config, published_params(family, component.params)), tmp_path / "out")
    assert read(tmp_path / "out").config == config
    rng = np.random.default_rng(1)
    x, tokens = (rng.standard_normal(s).astype(np.float32) for s in ((B, T, H, W, 3), (B, L, E)))
    given = {"x": x, "t": np.float32([30.0, 700.0]), "tokens": tokens}
    stacked = x
    if component.config.concat_channels:
        given["concat"] = rng.standard_normal((B, T, H, W, 2)).astype(np.float32)
        stacked = np.concatenate([x, given["concat"]], axis=-1)
    module = open_published(family, tmp_path / "out")
    clip = torch.from_numpy(stacked).permute(0, 4, 1, 2, 3)
    with torch.no_grad():
        theirs = module(clip, torch.tensor([30.0, 700.0]), torch.from_numpy(tokens), return_dict=False)[0]
    out = ours(component, given)
    assert np.abs(out).max() > 0.1
    assert relative_error(theirs.permute(0, 2, 3, 4, 1).numpy(), out) < 1e-4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {},
            r"text_projection='linear' \(it has 'mlp'\), qk_norm='head' \(it has 'all'\), text_dim=0 \(it reads text\)",
        ),
        ({**AS_WAN, "classes": 3, "scalars": ("fps",)}, r"classes=3 \(it has 0\), scalars=\('fps',\) \(it has \(\)\)$"),
        ({**AS_WAN, "positions": "sincos"}, r"WanTransformer3DModel: positions='sincos' \(it has 'none'\)$"),
        ({**AS_LATTE, "patch": (2, 2, 2)}, r"patch=\(2, 2, 2\) \(it has square ones of one frame\)$"),
        ({**AS_LATTE, "mlp_dim": 30, "grid": (T, 5, 6)}, r"mlp_dim=30 \(it has 4 dim\), grid=\(3, 5, 6\)"),
        ({**AS_LATTE, "rope": True}, r"LatteTransformer3DModel: rope=True \(it has False\)$"),
    ],
)
def test_options_in_the_way_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        published_form(DiTConfig(**{"dim": 24, "heads": 2, **fields}))


def test_the_same_arrays_are_handed_on():
    params = {"units": {"block": {"mlp": jax.numpy.zeros(1)}}, "text_in": {"out": {"bias": jax.numpy.ones(1)}}}
    found = published_params(WAN, params)
    assert found["blocks"]["mlp"] is params["units"]["block"]["mlp"]
    assert found["text_out"]["bias"] is params["text_in"]["out"]["bias"]
