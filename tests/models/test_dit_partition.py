"""A DiT on a mesh with a context axis: what one device gives, and no more sent than the partition says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.attention.meshes import mesh_of
from tests.models.tiny_dit import TEXT_DIM, awake, make, text
from vdm_jax.models.dit.config import DiTConfig
from vdm_jax.models.dit.layout import TokenLayout, choose_partition
from vdm_jax.planning.collectives import collectives
from vdm_jax.planning.hlo import parse
from vdm_jax.sharding import LogicalRules, activation_sharding

B, T, H, W = 2, 5, 4, 6  # 5 frames of 2 x 3 tokens: context 4 divides neither
CASES = {
    "full": {},
    "full_ring": {"partition": "ring", "causal": True},
    "full_hybrid": {"partition": "hybrid", "adaln": "per_block"},
    "factorised": {"attention": "factorised", "causal": True},
    "factorised_dynamic": {"attention": "factorised", "partition": "dynamic", "positions": "sincos"},
    "factorised_ulysses": {"attention": "factorised", "partition": "ulysses", "rope": False},
    "factorised_ring": {"attention": "factorised", "partition": "ring", "positions": "learned", "grid": (T, 2, 3)},
}


def model_of(**fields):
    return awake(make(heads=4, text_dim=TEXT_DIM, pooled_text=True, **fields), std=0.2)


def outcome(model, cond, mesh=None, frames=T):
    """Output, and gradients of a weighted sum of it by weights and clip."""
    graphdef, weights = nnx.split(model)
    x = jax.random.normal(jax.random.key(0), (B, frames, H, W, 3))
    t = jnp.linspace(10.0, 900.0, B * frames).reshape(B, frames)
    scale = jax.random.normal(jax.random.key(1), x.shape)

    def total(weights, x):
        out = nnx.merge(graphdef, weights)(x, t, cond)
        return (out * scale).sum(), out

    def run(weights, x):
        if mesh is None:
            return jax.grad(total, argnums=(0, 1), has_aux=True)(weights, x)
        with activation_sharding(mesh, LogicalRules()):
            return jax.grad(total, argnums=(0, 1), has_aux=True)(weights, x)

    args = (weights, x) if mesh is None else jax.device_put((weights, x), jax.NamedSharding(mesh, jax.P()))
    return jax.tree.leaves(jax.jit(run)(*args))


def agree(fields, cond, mesh, frames=T):
    model = model_of(**fields)
    for got, want in zip(outcome(model, cond, mesh, frames), outcome(model, cond, None, frames), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * max(1.0, np.abs(want).max()))


@pytest.mark.parametrize("name", CASES)
def test_it_gives_what_one_device_gives(name):
    agree(CASES[name], text(), mesh_of(data=2, context=4))


@pytest.mark.parametrize("partition", ["ulysses", "dynamic"])
def test_prompts_of_frames(partition):
    form = {"attention": "factorised", "partition": partition}
    agree(form, text(per_frame=T), mesh_of(context=4))


def test_prompts_of_frames_in_a_full_model():
    agree({"partition": "ulysses"}, text(per_frame=T), mesh_of(context=2, tensor=2))


@pytest.mark.parametrize(
    "fields", [{"partition": "ring"}, {"attention": "factorised", "partition": "dynamic"}], ids=str
)
def test_packed_clips(fields):
    packed = text(per_frame=2)
    cond = {
        "segments": jnp.array([[0, 0, 0, 1, 1], [0, 1, 1, 1, 1]]),
        "tokens": packed["tokens"],
        "tokens_mask": jnp.broadcast_to(packed["tokens_mask"][:, None], packed["tokens"].shape[:3]),
    }
    agree(fields, cond, mesh_of(context=4))


def test_fewer_frames_and_tokens_than_devices():
    agree({"attention": "factorised", "partition": "dynamic", "patch": (1, 4, 6)}, text(), mesh_of(context=4), frames=2)


def traffic(fields, frames, mesh, depth):
    """Collectives over context of the forward and backward pass, with weights on every device."""
    model = make(heads=4, depth=depth, **fields)
    graphdef, weights = nnx.split(model)
    x = jnp.zeros((B, frames, 8, 8, 3))
    t = jnp.linspace(10.0, 900.0, B)

    def forward(weights, x):
        with activation_sharding(mesh, LogicalRules()):
            return (nnx.merge(graphdef, weights)(x, t, {}) ** 2).sum()

    def both(weights, x):
        with activation_sharding(mesh, LogicalRules()):
            return jax.grad(lambda w: (nnx.merge(graphdef, w)(x, t, {}) ** 2).sum())(weights)

    place = jax.NamedSharding(mesh, jax.P())
    args = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), (weights, x))
    found = [collectives(parse(jax.jit(f).lower(*args).compile().as_text()), mesh.shape) for f in (forward, both)]
    return [[c for c in each if c.axes == ("context",)] for each in found]


@pytest.mark.parametrize("frames", [8, 7])
def test_dynamic_sends_the_tokens_once_between_blocks_and_gathers_none(frames):
    mesh, depth, dim, space = mesh_of(context=4), 3, 16, 16
    forward, both = traffic({"attention": "factorised", "partition": "dynamic"}, frames, mesh, depth)
    share = B * 8 * space * dim * 4 // 4  # bytes of the tokens on one device, padded to 8 frames
    for found, exchanges in ((forward, 2 * depth), (both, 4 * depth)):
        moves = [c for c in found if c.kind == "all-to-all"]
        assert sum(c.count for c in moves) == exchanges
        assert {c.out_bytes for c in moves} == {share}
        others = [c for c in found if c.kind not in ("all-to-all", "all-reduce")]
        assert {c.kind for c in others} <= {"all-gather"}
        # None forward; backward the gradients of the modulation, six rows a frame and not one for each of its tokens.
        assert sum(c.count for c in others) <= (0 if found is forward else depth + 1)
        assert all(c.out_bytes <= 6 * B * 8 * dim * 4 for c in others)


@pytest.mark.parametrize("partition", ["ulysses", "ring", "hybrid"])
def test_full_attention_sends_what_its_partition_says(partition):
    mesh, depth, dim = mesh_of(context=4), 3, 16
    forward, both = traffic({"partition": partition}, 8, mesh, depth)
    share = B * 8 * 16 * dim * 4 // 4
    units = {"ulysses": 4 * 3 / 4, "ring": 2 * 3, "hybrid": 4 * 1 / 2 + 2 * 1}[partition]
    kinds = {"ulysses": {"all-to-all"}, "ring": {"collective-permute"}, "hybrid": {"all-to-all", "collective-permute"}}
    sent = sum(c.count * c.wire_bytes for c in forward if c.kind in kinds[partition])
    assert sent == pytest.approx(depth * units * share)
    assert not [c for each in (forward, both) for c in each if c.kind == "all-gather"]


@pytest.mark.parametrize(("remat", "again"), [("none", 0), ("offload", 0), ("attention", 3), ("full", 4)])
def test_a_kept_output_spares_the_recomputation_its_exchange(remat, again):
    """Backward needs q, k, v again; the output and its exchange only where it was not kept."""
    depth = 2
    _, both = traffic({"partition": "ulysses", "remat": remat}, 8, mesh_of(context=4), depth)
    once = 4 + 5  # q, k, v, out; and dO, delta, dq, dk, dv
    assert sum(c.count for c in both if c.kind == "all-to-all") == depth * (once + again)


@pytest.mark.parametrize(
    ("attention", "context", "frames", "heads", "name"),
    [
        ("full", 1, 8, 4, "local"),
        ("full", 4, 8, 4, "ulysses"),
        ("full", 8, 8, 4, "hybrid"),
        ("full", 4, 8, 3, "ring"),
        ("factorised", 4, 21, 4, "dynamic"),
        ("factorised", 8, 6, 8, "dynamic"),
        ("factorised", 8, 5, 8, "ulysses"),
    ],
)
def test_auto_says_which_and_why(attention, context, frames, heads, name):
    got, why = choose_partition(attention, context, frames, heads)
    assert got == name
    assert why
    assert "\n" not in why


def test_a_partition_of_the_other_form_or_too_few_heads_are_refused_by_name():
    with pytest.raises(ValueError, match=r"partition: unknown 'dynamic'; allowed: .* \(attention='full'\)"):
        DiTConfig(partition="dynamic")
    with pytest.raises(ValueError, match="partition: unknown 'dinamic'; did you mean 'dynamic'"):
        DiTConfig(attention="factorised", partition="dinamic")
    with activation_sharding(mesh_of(context=4), LogicalRules()), pytest.raises(ValueError, match="cannot cut 6 heads"):
        TokenLayout.of("full", "ulysses", 8, 16, 6)
