"""Every kernel x partition x policy on eight fake devices gives what the reference gives on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.meshes import (
    FRAMES,
    POLICIES,
    SPACE,
    B,
    D,
    H,
    N,
    agree,
    mesh_of,
    on_one_device,
    operands,
    with_gradients,
)
from vdm_jax.attention import KERNELS, Policy, attend
from vdm_jax.attention.splash import Splash
from vdm_jax.attention.splash_blocks import Blocks, Tile
from vdm_jax.attention.triton import Triton
from vdm_jax.sharding import LogicalRules, activation_sharding

EXCHANGES = ("ulysses", "ring", "hybrid")
EVERYWHERE = [
    name for name in KERNELS if KERNELS[name].refuses(Policy(), (B, H, N, D), (B, H, N, D), "float32", "cpu") is None
]


@pytest.fixture(scope="module")
def mesh():
    return mesh_of(context=4, tensor=2)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("partition", EXCHANGES)
@pytest.mark.parametrize("kernel", EVERYWHERE)
def test_output_and_gradients_are_those_of_one_device(mesh, kernel, partition, policy):
    options = {"kernel": kernel, "partition": partition, "policy": POLICIES[policy]}
    agree(mesh, operands((B, N, H, D)), **options)


TILE = Tile(128, 128, 128)
IN_BLOCKS = {
    "splash": Splash(Blocks(TILE, TILE), interpret=True),
    "triton": Triton(block_q=16, block_k=16, interpret=True),
}
SAID_IN_BLOCKS = [name for name, policy in POLICIES.items() if policy.mask is None]
SOME = ("full", "causal_unit", "causal_segments")


@pytest.mark.parametrize(
    ("kernel", "context", "partition", "policy", "dtype"),
    [("splash", 2, p, policy, "float32") for p in ("ulysses", "ring") for policy in SAID_IN_BLOCKS]
    + [("splash", 4, "hybrid", policy, "float32") for policy in SOME]
    + [("splash", 2, p, "causal_unit", "bfloat16") for p in ("ulysses", "ring")]
    + [("triton", 2, p, "causal_segments", "float32") for p in ("ulysses", "ring")],
)
def test_accelerators_kernels_in_the_interpreter(monkeypatch, kernel, context, partition, policy, dtype):
    monkeypatch.setitem(KERNELS, kernel, IN_BLOCKS[kernel])
    options = {"kernel": kernel, "partition": partition, "policy": POLICIES[policy]}
    args = operands((B, N, H, 16 if kernel == "triton" else D), dtype=dtype)
    agree(mesh_of(context=context), args, 1e-5 if dtype == "float32" else 2e-2, **options)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("partition", EXCHANGES)
@pytest.mark.parametrize("kernel", EVERYWHERE)
def test_bfloat16_stays_near_the_exact_result(mesh, kernel, partition, policy):
    args = operands((B, N, H, D), dtype=jnp.bfloat16)
    agree(mesh, args, 2e-2, kernel=kernel, partition=partition, policy=POLICIES[policy])


@pytest.mark.parametrize("partition", EXCHANGES)
@pytest.mark.parametrize("length", [None, SPACE])
@pytest.mark.parametrize("kind", ["full", "causal", "window", "masks"])
def test_frames_of_tokens(mesh, partition, length, kind):
    """The axis cuts inside frames; tokens beyond `length` may be padding that the network carries along."""
    n = FRAMES * SPACE
    q, k, v, weights = operands((B, FRAMES, SPACE, H, D))
    policy = {
        "full": Policy(),
        "causal": Policy(causal=True, unit=SPACE),
        "window": Policy(window=2, unit=SPACE),
        "masks": Policy(
            key_mask=jnp.arange(n)[None] < jnp.array([[7], [n]]),
            mask=jax.random.bernoulli(jax.random.key(1), 0.6, (1, H, n, n)),
        ),
    }[kind]
    want = on_one_device((q, k, v, weights), layout="BTSHD", policy=policy)
    if length is not None:
        junk = [(0, 0), (0, 0), (0, 3), (0, 0), (0, 0)]
        q, k, v = (jnp.pad(x, junk, constant_values=7.0) for x in (q, k, v))
        weights = jnp.pad(weights, junk)
    options = {"partition": partition, "layout": "BTSHD", "policy": policy, "length": length}
    got = with_gradients(mesh, (q, k, v, weights), **options)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a[:, :, :SPACE], b, rtol=1e-5, atol=1e-5)
        assert np.isfinite(a).all()
    for grad in got[1:]:
        assert not grad[:, :, SPACE:].any()


@pytest.mark.parametrize("partition", ["rows", "local"])
def test_padding_of_tokens_that_nobody_exchanges(mesh, partition):
    mask = jax.random.bernoulli(jax.random.key(1), 0.6, (B, H, N, N))
    args = operands((B, N, H, D))
    want = on_one_device(args, policy=Policy(mask=mask))
    wide = [jnp.pad(x, [(0, 0), (0, 3), (0, 0), (0, 0)], constant_values=7.0) for x in args[:3]]
    weights = jnp.pad(args[3], [(0, 0), (0, 3), (0, 0), (0, 0)])
    got = with_gradients(mesh, (*wide, weights), partition=partition, policy=Policy(mask=mask), length=N)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a[:, :N], b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("context", [2, 3, 8])
@pytest.mark.parametrize("policy", ["full", "causal", "window"])
def test_rings_of_any_size(context, policy):
    agree(mesh_of(context=context), operands((B, N, 3, D)), partition="ring", policy=POLICIES[policy])


@pytest.mark.parametrize("length", [16, 3])
@pytest.mark.parametrize("partition", EXCHANGES)
def test_lengths_that_divide_and_lengths_below_the_axis(mesh, partition, length):
    args = operands((B, length, H, D))
    agree(mesh, args, partition=partition, policy=Policy(causal=True))


def test_the_batch_stays_cut_where_it_divides_and_whole_where_not():
    mesh = mesh_of(data=2, fsdp=2, context=2)
    agree(mesh, operands((4, N, H, D)), partition="ulysses", policy=Policy(causal=True))
    agree(mesh, operands((3, N, H, D)), partition="ring", policy=Policy(causal=True))


@pytest.mark.parametrize("partition", ["auto", "rows"])
def test_few_keys_are_everywhere(mesh, partition):
    mask = jnp.arange(6)[None] < jnp.array([[4], [6]])
    args = operands((B, N, H, D), (B, 6, H, D))
    agree(mesh, args, partition=partition, policy=Policy(key_mask=mask))
    wide = Policy(mask=jax.random.bernoulli(jax.random.key(1), 0.6, (B, 1, N, 6)))
    agree(mesh, args, partition=partition, policy=wide)


@pytest.mark.parametrize("partition", EXCHANGES)
def test_more_keys_than_queries(mesh, partition):
    """A cache of earlier frames: queries of one frame, keys of several."""
    args = operands((B, 1, SPACE, H, D), (B, FRAMES, SPACE, H, D))
    mask = jnp.arange(FRAMES * SPACE)[None] < jnp.array([[7], [11]])
    agree(mesh, args, partition=partition, layout="BTSHD", policy=Policy(key_mask=mask))
    agree(mesh, operands((B, 5, H, D), (B, N, H, D)), partition=partition)


@pytest.mark.parametrize("partition", ["auto", "groups", "local", *EXCHANGES])
@pytest.mark.parametrize("groups", [4, 3])
def test_groups_of_sequences(mesh, partition, groups):
    args = operands((B, groups, 6, H, D))
    agree(mesh, args, partition=partition, layout="BGNHD", policy=Policy(causal=True))
    mask = jax.random.bernoulli(jax.random.key(1), 0.6, (B * groups, 6))
    agree(mesh, args, partition=partition, layout="BGNHD", policy=Policy(key_mask=mask))


@pytest.mark.parametrize("partition", ["groups", "rows", "local"])
@pytest.mark.parametrize("groups", [4, 3])
def test_groups_that_share_their_keys(mesh, partition, groups):
    """One prompt for all frames of a clip."""
    mask = jnp.arange(5)[None] < jnp.array([[4], [5]])
    args = operands((B, groups, 6, H, D), (B, 1, 5, H, D))
    agree(mesh, args, partition=partition, layout="BGNHD", policy=Policy(key_mask=mask))


@pytest.mark.parametrize("layout", ["BNHD", "BHND", "BGNHD", "BGHND", "BTSHD", "BHTSD"])
def test_layouts_name_the_same_dims(mesh, layout):
    sizes = {"B": B, "G": 2, "H": H, "T": 2, "S": 6, "N": 6, "D": D}
    agree(mesh, operands(tuple(sizes[dim] for dim in layout)), layout=layout)


def test_remat_finds_the_names():
    mesh = mesh_of(context=4)
    q, k, v, _ = operands((B, 16, H, D))

    def block(q):
        return attend(q, k, v, partition="ulysses").sum()

    def step(q):
        with activation_sharding(mesh, LogicalRules()):
            keep = jax.checkpoint_policies.save_only_these_names("attention_out", "attention_lse")
            return jax.grad(jax.checkpoint(block, policy=keep))(q)

    program = str(jax.make_jaxpr(step)(q))
    assert "name=attention_out" in program
    assert "name=attention_lse" in program


def test_a_mesh_without_context_cuts_batch_and_heads():
    mesh = mesh_of(data=2, fsdp=2, tensor=2)
    agree(mesh, operands((4, N, H, D)), kernel="chunked", partition="ulysses", policy=POLICIES["causal"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partition": "rng"}, "partition: unknown 'rng'; did you mean 'ring'"),
        ({"partition": "rows", "policy": Policy(causal=True)}, "partition: 'rows' cannot tell positions"),
        (
            {"partition": "ulysses", "heads": 6},
            "partition: 'ulysses' cannot cut 3 heads .* over context 4; the nearest",
        ),
        ({"partition": "hybrid", "heads": 6}, "'hybrid' needs a factor of context 4 .* 3 heads .*; use 'ring'"),
        (
            {"partition": "ring", "layout": "BTSHD", "policy": Policy(causal=True, unit=2)},
            "partition: 'ring' counts positions in frames of 5 tokens, the policy's unit is 2",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(mesh, options, message):
    heads = options.pop("heads", H)
    shape = (B, FRAMES, SPACE, heads, D) if "layout" in options else (B, N, heads, D)
    with pytest.raises(ValueError, match=message):
        with_gradients(mesh, operands(shape), **options)
