import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models.tiny_dit import TEXT_DIM, B, H, L, T, W, awake, call, clip, make, text, times
from vdm_jax.models.dit.blocks import Block, Context
from vdm_jax.models.dit.config import DiTConfig
from vdm_jax.models.dit.layout import TokenLayout
from vdm_jax.nn import folding, linear

FORMS = ("full", "factorised")
VARIANTS = {
    "full": {},
    "full_per_block": {"adaln": "per_block"},
    "factorised": {"attention": "factorised", "depth": 2},
    "factorised_per_block": {"attention": "factorised", "adaln": "per_block"},
    "no_positions": {"rope": False, "qk_norm": "none"},
    "learned": {"attention": "factorised", "rope": False, "positions": "learned", "grid": (T, 2, 2)},
    "sincos": {"rope": False, "positions": "sincos", "qk_norm": "all"},
    "apart": {"attention": "factorised", "rope": False, "positions": "apart", "grid": (T, 4, 4)},
    "attention_first": {"attention": "factorised", "temporal": "attention_first", "adaln": "per_block", "depth": 2},
    "swiglu": {"attention": "factorised", "mlp": "swiglu", "causal": True, "text_projection": "mlp"},
}


def differs(a, b):
    return np.abs(np.asarray(a) - np.asarray(b)).max() > 1e-5


@pytest.mark.parametrize("name", VARIANTS)
def test_a_new_model_says_zero_and_one_with_weights_does_not(name):
    model = make(text_dim=TEXT_DIM, **VARIANTS[name])
    out = call(model, cond=text())
    assert out.shape == (B, T, H, W, 3)
    assert not np.asarray(out).any()
    out = np.asarray(call(awake(model), cond=text()))
    assert np.isfinite(out).all()
    assert out.std() > 1e-5


@pytest.mark.parametrize("form", FORMS)
def test_units_are_the_identity_at_the_start(form):
    """Not only the output: gates are zero, so what goes into the last layer is what came out of the first."""
    model = make(attention=form, depth=2)
    model.patch_out.kernel[...] = jnp.asarray(np.random.default_rng(0).normal(size=model.patch_out.kernel.shape))
    shallow = make(attention=form, depth=1)
    shallow.patch_in, shallow.patch_out, shallow.time = model.patch_in, model.patch_out, model.time
    np.testing.assert_allclose(call(model), call(shallow), rtol=1e-6, atol=1e-6)
    assert differs(call(model), 0.0)


@pytest.mark.parametrize("form", FORMS)
def test_causal_models_never_look_ahead(form):
    past, later = clip(), clip().at[:, 2:].add(5.0)
    t, t_later = times(), times().at[:, 2:].set(3.0)
    causal = awake(make(attention=form, causal=True))
    np.testing.assert_allclose(call(causal, past, t)[:, :2], call(causal, later, t_later)[:, :2], rtol=1e-6, atol=1e-7)
    assert differs(call(causal, past, t)[:, 2:], call(causal, later, t_later)[:, 2:])
    free = awake(make(attention=form))
    assert differs(call(free, past, t)[:, :2], call(free, later, t)[:, :2])


@pytest.mark.parametrize("form", FORMS)
def test_one_time_for_all_frames_is_one_time_a_clip(form):
    model = awake(make(attention=form))
    t = jnp.array([100.0, 700.0])
    per_frame = jnp.broadcast_to(t[:, None], (B, T))
    assert np.asarray(call(model, t=t)).tobytes() == np.asarray(call(model, t=per_frame)).tobytes()
    assert differs(call(model, t=t), call(model, t=per_frame.at[0, 1].set(5.0)))


def test_a_frame_hears_its_own_time_only():
    """Adjoint of the above: with attention over space alone no frame can hear of another's time."""
    model = awake(make(attention="factorised"))
    model.units.temporal.attention.out.kernel[...] *= 0.0
    other = times().at[:, 1].set(3.0)
    a, b = call(model), call(model, t=other)
    np.testing.assert_array_equal(a[:, [0, 2]], b[:, [0, 2]])
    assert differs(a[:, 1], b[:, 1])


def test_frames_of_one_patch_share_the_mean_of_their_times():
    model = awake(make(patch=(2, 2, 2)))
    x, t = clip(frames=4), times(4)
    swapped = t[:, jnp.array([1, 0, 3, 2])]
    np.testing.assert_allclose(call(model, x, t), call(model, x, swapped), rtol=1e-5, atol=1e-6)


def test_spatial_blocks_know_no_order_of_frames():
    cfg = DiTConfig(patch=(1, 2, 2), dim=16, depth=1, heads=2, attention="factorised", text_dim=TEXT_DIM)
    block = awake(Block(cfg, "space", rngs=nnx.Rngs(0)))
    x = jax.random.normal(jax.random.key(0), (B, T, 4, 16))
    rows = jax.random.normal(jax.random.key(1), (B, T, 6, 16))
    words = jax.random.normal(jax.random.key(2), (B, L, 16))

    def run(block, order):
        layout = TokenLayout(T, 4, "local")
        ctx = Context(rows[:, order, 0], rows[:, order], words, text()["tokens_mask"], {"space": None}, layout)
        return block(x[:, order], ctx)

    order = jnp.array([2, 0, 1])
    np.testing.assert_allclose(run(block, order), run(block, jnp.arange(T))[:, order], rtol=1e-5, atol=1e-6)
    temporal = awake(Block(cfg, "time", rngs=nnx.Rngs(0)))
    assert temporal.cross is None


@pytest.mark.parametrize("fields", [{}, {"attention": "factorised", "pooled_text": True}], ids=str)
def test_padding_of_the_prompt_has_no_influence(fields):
    model = awake(make(text_dim=TEXT_DIM, **fields))
    cond = text()
    hidden = ~cond["tokens_mask"][..., None]
    padded = {**cond, "tokens": jnp.where(hidden, 50.0, cond["tokens"])}
    np.testing.assert_allclose(call(model, cond=cond), call(model, cond=padded), rtol=1e-6, atol=1e-7)
    heard = {**cond, "tokens": jnp.where(hidden, cond["tokens"], 50.0)}
    assert differs(call(model, cond=cond), call(model, cond=heard))
    unmasked = {"tokens": padded["tokens"]}
    assert differs(call(model, cond=cond), call(model, cond=unmasked))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mask", ["per_clip", "per_frame", "none"])
def test_the_same_prompt_for_every_frame_is_one_prompt(form, mask):
    model = awake(make(text_dim=TEXT_DIM, attention=form, pooled_text=True))
    cond = text()
    frames = {"tokens": jnp.broadcast_to(cond["tokens"][:, None], (B, T, L, TEXT_DIM))}
    if mask == "none":
        del cond["tokens_mask"]
    else:
        each = jnp.broadcast_to(cond["tokens_mask"][:, None], (B, T, L))
        frames["tokens_mask"] = cond["tokens_mask"] if mask == "per_clip" else each
    np.testing.assert_allclose(call(model, cond=frames), call(model, cond=cond), rtol=1e-4, atol=1e-6)


def test_each_frame_reads_its_own_prompt():
    model = awake(make(attention="factorised", text_dim=TEXT_DIM))
    model.units.temporal.attention.out.kernel[...] *= 0.0  # nothing but the prompt can tell frames of another
    cond = text(per_frame=T)
    other = {**cond, "tokens": cond["tokens"].at[:, 1].multiply(-2.0)}
    a, b = call(model, cond=cond), call(model, cond=other)
    np.testing.assert_array_equal(a[:, [0, 2]], b[:, [0, 2]])
    assert differs(a[:, 1], b[:, 1])


def test_prompts_per_frame_of_tokens_or_a_clear_refusal():
    model = awake(make(patch=(2, 2, 2), text_dim=TEXT_DIM))
    with pytest.raises(ValueError, match="tokens are given for 4 frames, the clip has 2 frames of tokens"):
        call(model, clip(frames=4), times(4), text(per_frame=4))
    assert call(model, clip(frames=4), times(4), text(per_frame=2)).shape == (B, 4, H, W, 3)


def test_labels_and_scalars_are_heard_and_minus_one_is_unconditional():
    model = awake(make(classes=3, scalars=("fps", "motion")), std=0.3)
    rest = {"label": jnp.array([-1, -1]), "fps": jnp.array([-1.0, -1.0]), "motion": jnp.array([-1.0, -1.0])}
    outs = [call(model, cond={"vector": rest})]
    for name, value in (("label", [0, 2]), ("fps", [8.0, 24.0]), ("motion", [0.0, 0.0])):
        outs.append(call(model, cond={"vector": {**rest, name: jnp.array(value)}}))
    for i in range(4):
        for j in range(i):
            assert differs(outs[i], outs[j])
    one = call(model, cond={"vector": {**rest, "label": jnp.array([0, -1])}})
    np.testing.assert_array_equal(one[1], outs[0][1])


def test_known_and_concat_come_in_with_the_clip():
    model = awake(make(known_channel=True, concat_channels=2))
    frames = jnp.array([[True, False, False], [False, False, False]])
    cond = {"known": frames, "concat": jnp.zeros((B, T, H, W, 2))}
    out = call(model, cond=cond)
    pixels = jnp.broadcast_to(frames[..., None, None, None], (B, T, H, W, 1))
    np.testing.assert_array_equal(call(model, cond={**cond, "known": pixels}), out)
    nothing = call(model, cond={**cond, "known": jnp.zeros((B, T), bool)})
    assert differs(nothing[0], out[0])
    np.testing.assert_array_equal(nothing[1], out[1])
    assert differs(call(model, cond={**cond, "concat": cond["concat"] + 1}), out)


@pytest.mark.parametrize(
    ("fields", "cond", "message"),
    [
        ({}, {"tokens": 0}, "DiT does not read 'tokens' .it reads: length, segments"),
        ({"text_dim": 6}, {"token": 0}, "unknown 'token'; did you mean 'tokens'"),
        ({"text_dim": 6}, {}, "DiT needs tokens"),
        ({"known_channel": True}, {}, "DiT needs known .it has: none"),
        ({"classes": 2}, {"vector": {"lable": jnp.zeros(B)}}, "DiT needs vector entries label"),
        (
            {"scalars": ("fps",)},
            {"vector": {"fps": jnp.zeros(B), "speed": jnp.zeros(B)}},
            "does not read vector .* speed",
        ),
    ],
)
def test_conditions_are_never_passed_over_in_silence(fields, cond, message):
    with pytest.raises(ValueError, match=message):
        make(**fields)(clip(), times(), cond)


def test_sizes_that_the_patch_does_not_divide_name_the_nearest():
    with pytest.raises(ValueError, match="width: 5 is not divisible by the patch 2; the nearest that is: 4"):
        make()(jnp.zeros((1, 2, 4, 5, 3)), jnp.zeros(1))


def test_it_computes_in_the_dtype_of_the_clip():
    model = awake(make(text_dim=TEXT_DIM, attention="factorised", causal=True), std=0.2)
    exact = call(model, cond=text())
    low = call(model, clip().astype(jnp.bfloat16), cond=text())
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), exact, atol=0.05 * float(jnp.abs(exact).max()))


@pytest.mark.parametrize("form", FORMS)
def test_the_kernel_is_a_choice_of_speed_only(form):
    models = [awake(make(attention=form, kernel=kernel, causal=True), std=0.2) for kernel in ("reference", "chunked")]
    np.testing.assert_allclose(*(call(model) for model in models), rtol=1e-4, atol=1e-5)


def dot_flops(jaxpr, times_run=1):
    """Multiply-adds times two of all matrix products of a program; loops count as often as they run."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contract, _), _ = eqn.params["dimension_numbers"]
            summed = np.prod([eqn.invars[0].aval.shape[d] for d in contract])
            total += 2 * times_run * np.prod(eqn.outvars[0].aval.shape) * summed
        runs = times_run * eqn.params["length"] if eqn.primitive.name == "scan" else times_run
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            total += dot_flops(inner, runs) if hasattr(inner, "eqns") else 0
    return total


@pytest.mark.parametrize(("mlp", "text_projection"), [("gelu", "linear"), ("swiglu", "mlp")])
@pytest.mark.parametrize("adaln", ["single", "per_block"])
@pytest.mark.parametrize("form", FORMS)
def test_forward_flops_are_those_of_the_program(form, adaln, mlp, text_projection):
    text = {"text_dim": 24, "text_projection": text_projection}
    model = make(dim=32, depth=3, attention=form, adaln=adaln, mlp=mlp, kernel="reference", **text)
    cond = {"tokens": jnp.zeros((1, 4, 24))}
    x = jnp.zeros((1, 4, 32, 32, 3))
    program = jax.make_jaxpr(lambda x: model(x, jnp.zeros(1), cond))(x)
    counted = dot_flops(program.jaxpr)
    np.testing.assert_allclose(model.config.forward_flops(4, 32, 32, 4), counted, rtol=1e-9)


def test_the_compiler_counts_the_same():
    model = make(dim=64, depth=2, kernel="reference")
    x = jax.ShapeDtypeStruct((1, 4, 32, 32, 3), jnp.float32)
    compiled = jax.jit(lambda x: model(x, jnp.zeros(1))).lower(x).compile()
    flops = compiled.cost_analysis()["flops"]
    ours = model.config.forward_flops(4, 32, 32)
    assert ours < flops < 1.15 * ours  # XLA adds softmax, norms and activations


def test_tokens_are_merged_or_not_with_the_same_result(monkeypatch):
    model = awake(make(text_dim=TEXT_DIM))
    results = []
    for flatten in (True, False):
        for module in (folding, linear):
            monkeypatch.setattr(module, "folds", lambda flatten=flatten: flatten)
        results.append(np.asarray(model(clip(), times(), text())))
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-6)
