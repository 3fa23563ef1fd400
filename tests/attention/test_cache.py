"""Frame after frame through a cache gives what attention over all frames at once gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.meshes import draw, mesh_of
from vdm_jax.attention import KVCache, Policy, attend
from vdm_jax.planning.collectives import collectives
from vdm_jax.planning.hlo import parse
from vdm_jax.sharding import LogicalRules, activation_sharding

B, H, T, S, D = 2, 4, 6, 4, 8


def clip():
    """q, k, v of T frames, `[B, H, T, S, D]`."""
    return (draw(seed, (B, H, T, S, D)) for seed in range(3))


def cache(frames, over="tokens"):
    return KVCache.empty(B, H, frames=frames, tokens=S, head_dim=D, over=over)


def streamed(frames, chunk, q, k, v, over="tokens", window=None, causal=False, **options):
    """Attention of chunk after chunk of frames, `[B, H, T, S, D]`."""
    out, held = [], cache(frames, over)
    for start in range(0, T, chunk):
        now = slice(start, start + chunk)
        held = held.append(k[:, :, now], v[:, :, now])
        policy = held.policy(chunk, causal=causal, window=window)
        out.append(attend(q[:, :, now], held.k, held.v, policy=policy, layout="BHTSD", **options))
    return jnp.concatenate(out, axis=2)


def at_once(q, k, v, policy):
    return attend(q, k, v, policy=policy, layout="BHTSD", kernel="reference")


def seen(frames_seen):
    """A policy from `[T, T]` bool over frames."""
    return Policy(mask=jnp.asarray(np.kron(frames_seen, np.ones((S, S), bool)))[None, None])


@pytest.mark.parametrize("capacity", [T, T + 2])
def test_one_frame_at_a_time_is_causal_attention(capacity):
    q, k, v = clip()
    want = at_once(q, k, v, Policy(causal=True, unit=S))
    np.testing.assert_allclose(streamed(capacity, 1, q, k, v), want, rtol=1e-5, atol=1e-5)


def test_frames_of_a_chunk_see_each_other_unless_told():
    q, k, v = clip()
    blocks = np.kron(np.tril(np.ones((T // 2, T // 2), bool)), np.ones((2, 2), bool))
    np.testing.assert_allclose(streamed(T, 2, q, k, v), at_once(q, k, v, seen(blocks)), rtol=1e-5, atol=1e-5)
    want = at_once(q, k, v, Policy(causal=True, unit=S))
    np.testing.assert_allclose(streamed(T, 2, q, k, v, causal=True), want, rtol=1e-5, atol=1e-5)


def test_a_full_queue_forgets_the_oldest_frames():
    q, k, v = clip()
    want = at_once(q, k, v, Policy(causal=True, window=3, unit=S))
    np.testing.assert_allclose(streamed(3, 1, q, k, v), want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(streamed(4, 1, q, k, v, window=3), want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(streamed(4, 2, q, k, v, window=3, causal=True), want, rtol=1e-5, atol=1e-5)


def test_slots_say_which_frame_they_hold():
    held = cache(3)
    _, k, v = clip()
    assert held.capacity == 3
    np.testing.assert_array_equal(held.read()[2], [-1, -1, -1])
    held = held.append(k[:, :, :2], v[:, :, :2])
    np.testing.assert_array_equal(held.read()[2], [0, 1, -1])
    held = held.append(k[:, :, 2:4], v[:, :, 2:4])
    keys, values, number = held.read()
    np.testing.assert_array_equal(number, [3, 1, 2])
    np.testing.assert_array_equal(keys, k[:, :, np.array([3, 1, 2])])
    np.testing.assert_array_equal(values, v[:, :, np.array([3, 1, 2])])
    longer = cache(3).append(k[:, :, :5], v[:, :, :5])
    np.testing.assert_array_equal(longer.read()[2], [3, 4, 2])
    np.testing.assert_array_equal(longer.k, k[:, :, np.array([3, 4, 2])])
    np.testing.assert_array_equal(held.reset().read()[2], [-1, -1, -1])
    assert not held.reset().policy(1).key_mask.any()


def test_sampling_steps_share_a_cache():
    """A pytree of fixed shapes: carried through a scan, and what a step appends is dropped with its result."""
    q, k, v = clip()
    held = cache(3).append(k[:, :, :2], v[:, :, :2])

    @jax.jit
    def denoise(held, x):
        def step(x, _):
            now = held.append(x, x)
            return attend(q[:, :, 2:3], now.k, now.v, policy=now.policy(1), layout="BHTSD"), now.count

        return jax.lax.scan(step, x, None, length=3)

    x, counts = denoise(held, k[:, :, 2:3])
    np.testing.assert_array_equal(counts, [3, 3, 3])
    again, _ = denoise(held, k[:, :, 2:3])
    np.testing.assert_array_equal(x, again)
    assert jax.tree.structure(held) == jax.tree.structure(held.append(x, x))


@pytest.mark.parametrize(
    ("over", "partition"), [("tokens", "ulysses"), ("tokens", "ring"), ("tokens", "hybrid"), ("heads", "ulysses")]
)
def test_it_works_on_a_mesh(over, partition):
    mesh = mesh_of(context=4)
    q, k, v = clip()

    @jax.jit
    def run(q, k, v):
        with activation_sharding(mesh, LogicalRules()):
            return streamed(4, 1, q, k, v, over, window=3, partition=partition, keys=over)

    place = jax.NamedSharding(mesh, jax.P(None, None, None, "context"))
    got = run(*(jax.device_put(x, place) for x in (q, k, v)))
    want = at_once(q, k, v, Policy(causal=True, window=3, unit=S))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_a_cache_cut_by_heads_is_read_in_place():
    """What is sent for a frame does not depend on how many frames are held."""
    mesh = mesh_of(context=4)

    def sent(frames, over):
        def run(held, q, k, v):
            with activation_sharding(mesh, LogicalRules()):
                held = held.append(k, v)
                out = attend(q, held.k, held.v, policy=held.policy(1), layout="BHTSD", partition="ulysses", keys=over)
                return out, held

        place = lambda *spec: jax.NamedSharding(mesh, jax.P(*spec))  # noqa: E731
        cut = place(None, "context") if over == "heads" else place(None, None, None, "context")
        array = jax.ShapeDtypeStruct((B, H, frames, S, D), jnp.float32, sharding=cut)
        held = KVCache(array, array, jax.ShapeDtypeStruct((), jnp.int32, sharding=place()), over)
        x = jax.ShapeDtypeStruct((B, H, 1, S, D), jnp.float32, sharding=place(None, None, None, "context"))
        text = jax.jit(run).lower(held, x, x, x).compile().as_text()
        return sum(c.count * c.wire_bytes for c in collectives(parse(text), mesh.shape))

    frame = B * H * S * D * 4 / 4 * 3 / 4  # what an all-to-all of one operand sends
    assert sent(2, "heads") == sent(16, "heads") == pytest.approx(4 * frame)
    assert sent(16, "tokens") == pytest.approx((2 + 2 * 16) * frame)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda held, k: held.append(k[:, :, :, :3], k[:, :, :, :3]), r"k, v: float32\[2, 4, 6, 3, 8\] .* cannot be"),
        (lambda held, k: held.append(k.astype(jnp.bfloat16), k.astype(jnp.bfloat16)), r"k, v: bfloat16\["),
        (lambda held, k: held.policy(4), "queries: 4 frames ask a cache that holds 3"),
        (lambda held, k: KVCache.empty(1, 1, frames=0, tokens=1, head_dim=1), "frames: 0 slots"),
        (lambda held, k: cache(3, over="head"), "over: unknown 'head'; did you mean 'heads'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, message):
    _, k, _ = clip()
    with pytest.raises(ValueError, match=message):
        call(cache(3), k)


def test_a_cache_cut_by_heads_needs_ulysses():
    mesh = mesh_of(context=4)
    q, k, v = clip()
    message = "partition: 'ring' exchanges tokens and cannot read a cache that is cut by heads"
    with activation_sharding(mesh, LogicalRules()), pytest.raises(ValueError, match=message):
        attend(q, k, v, layout="BHTSD", partition="ring", keys="heads")
    with pytest.raises(ValueError, match="keys: unknown 'head'; did you mean 'heads'"):
        attend(q, k, v, layout="BHTSD", keys="head")


def test_noisy_frames_stand_beside_the_queue_and_leave_it_as_it_is():
    q, k, v = clip()
    held = cache(3)
    for n in range(4):  # one more than there is room for
        held = held.append(k[:, :, n : n + 1], v[:, :, n : n + 1])
    keys, values, reach = held.beside(k[:, :, 4:], v[:, :, 4:], causal=True)
    policy = Policy(mask=jnp.repeat(jnp.repeat(reach, S, 0), S, 1)[None, None])
    got = attend(q[:, :, 4:], keys, values, policy=policy, layout="BHTSD", kernel="reference")
    frames = np.arange(T)
    want = at_once(q, k, v, seen((frames[None] <= frames[:, None]) & (frames[None] >= 1)))[:, :, 4:]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert held.beside(k[:, :, 4:], v[:, :, 4:])[2].all()
    assert list(held.places()) == [2, 0, 1]
    assert list(cache(3).places()) == [-1, -1, -1]
    assert int(held.held) == 3


def test_the_newest_frames_come_oldest_first_and_the_first_stands_in_for_those_before_it():
    _, k, v = clip()
    held = cache(3).append(k[:, :, :2], v[:, :, :2])
    np.testing.assert_array_equal(held.newest(3)[0], k[:, :, np.array([0, 0, 1])])
    held = held.append(k[:, :, 2:5], v[:, :, 2:5])
    for part, whole in zip(held.newest(2), (k, v)):
        np.testing.assert_array_equal(part, whole[:, :, 3:5])
    with pytest.raises(ValueError, match="frames: 4 of a cache that holds 3"):
        held.newest(4)
