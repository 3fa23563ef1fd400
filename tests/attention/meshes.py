"""Attention on eight fake devices: operands, policies, and the comparison with the reference on one device."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.attention import Policy, attend
from vdm_jax.sharding import LogicalRules, MeshConfig, activation_sharding, make_mesh

B, H, D = 2, 8, 4
N = 13  # no axis divides it
FRAMES, SPACE = 3, 5


def mesh_of(**axes):
    """A mesh of as many devices as its axes need."""
    count = int(np.prod(list(axes.values())))
    return make_mesh(MeshConfig(**{"data": 1, **axes}), jax.devices()[:count])


def draw(seed, shape, dtype=jnp.float32):
    """Standard normal numbers."""
    return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def operands(q_shape, k_shape=None, dtype=jnp.float32):
    """q, k, v and weights of the output."""
    k_shape = k_shape or q_shape
    return (
        draw(0, q_shape, dtype),
        draw(1, k_shape, dtype),
        draw(2, k_shape, dtype),
        draw(3, q_shape),
    )


def with_gradients(mesh, args, **options):
    """Output and gradients of its weighted sum, `[out, dq, dk, dv]`; on one device where `mesh` is None."""

    def total(q, k, v, weights):
        out = attend(q, k, v, **options)
        return (out.astype(jnp.float32) * weights).sum(), out

    def compute(*args):
        if mesh is None:
            (_, out), grads = jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)(*args)
        else:
            with activation_sharding(mesh, LogicalRules()):
                (_, out), grads = jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)(*args)
        return out, *grads

    if mesh is not None:
        args = jax.device_put(args, jax.sharding.NamedSharding(mesh, jax.P()))
    return [np.asarray(x, np.float32) for x in jax.jit(compute)(*args)]


def on_one_device(args, **options):
    """What the reference gives there for the same numbers in float32; asked again, it is not compiled again."""
    exact = tuple(x.astype(jnp.float32) for x in args)
    plain = {name: value for name, value in options.items() if name not in ("kernel", "partition")}
    question = _spelled((exact, plain))
    if question not in _known:
        _known[question] = with_gradients(None, exact, kernel="reference", **plain)
    return _known[question]


_known = {}


def _spelled(value):
    """A key that is equal where the values are."""
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return tuple((name, _spelled(value[name])) for name in sorted(value))
    if isinstance(value, (tuple, list)):
        return tuple(map(_spelled, value))
    return (value.shape, str(value.dtype), np.asarray(value).tobytes()) if isinstance(value, jax.Array) else value


def agree(mesh, args, tolerance=1e-5, want=None, **options):
    """The mesh gives what the reference gives on one device (`want`, if known), output and gradients."""
    got = with_gradients(mesh, args, **options)
    want = want or on_one_device(args, **options)
    for name, a, b in zip(("out", "dq", "dk", "dv"), got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=name)


def _random(seed, shape):
    return jax.random.bernoulli(jax.random.key(seed), 0.6, shape)


KEY_MASK = jnp.arange(N)[None] < jnp.array([[9], [N]])
SEGMENTS = jnp.arange(N)[None] // jnp.array([[4], [6]])
DENSE = _random(1, (B, H, N, N)).at[:, 1, 4].set(False).at[1, :, N - 1].set(False)

POLICIES = {
    "full": Policy(),
    "causal": Policy(causal=True),
    "causal_unit": Policy(causal=True, unit=3),
    "window": Policy(window=2),
    "causal_window": Policy(causal=True, window=3, unit=2),
    "key_mask": Policy(key_mask=KEY_MASK),
    "causal_key_mask": Policy(causal=True, key_mask=KEY_MASK),
    "mask_shared": Policy(mask=_random(2, (1, 1, N, N))),
    "mask_blind_rows": Policy(mask=DENSE),
    "segments": Policy(q_segments=SEGMENTS, k_segments=SEGMENTS),
    "causal_segments": Policy(causal=True, q_segments=SEGMENTS, k_segments=SEGMENTS),
    "all": Policy(True, 4, 2, key_mask=KEY_MASK, mask=DENSE, q_segments=SEGMENTS, k_segments=SEGMENTS),
}
