"""A bias of the scores: relative positions, log-weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.meshes import mesh_of
from vdm_jax.attention import Policy, attend, choose_kernel
from vdm_jax.sharding import LogicalRules, activation_sharding

B, H, N, D = 2, 3, 5, 4


def operands():
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(B, H, N, D)), jnp.float32) for _ in range(3))
    return q, k, v, jnp.asarray(rng.normal(size=(1, H, N, N)), jnp.float32)


def by_hand(q, k, v, bias, mask):
    scores = 0.7 * jnp.einsum("bhqd,bhkd->bhqk", q, k) + bias
    weights = jax.nn.softmax(jnp.where(mask[:, None, None], scores, -jnp.inf), -1)
    return jnp.einsum("bhqk,bhkd->bhqd", weights, v)


def test_a_bias_is_added_to_the_scores_and_has_a_gradient():
    mask = jnp.arange(N)[None] < jnp.array([[5], [3]])

    def ours(q, k, v, bias):
        return attend(q, k, v, policy=Policy(key_mask=mask, bias=bias), layout="BHND", scale=0.7, partition="local")

    q, k, v, bias = operands()
    np.testing.assert_allclose(ours(q, k, v, bias), by_hand(q, k, v, bias, mask), rtol=1e-5, atol=1e-6)
    loss = lambda f, *more: lambda *x: jnp.sum(jnp.sin(f(*x, *more)))  # noqa: E731
    got = jax.grad(loss(ours), (0, 1, 2, 3))(q, k, v, bias)
    want = jax.grad(loss(by_hand, mask), (0, 1, 2, 3))(q, k, v, bias)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, want)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_auto_takes_the_kernel_that_has_its_gradient(platform):
    q, k, _, bias = operands()
    assert choose_kernel(Policy(bias=bias), q.shape, k.shape, jnp.bfloat16, platform)[0] == "reference"


def test_what_cannot_honour_it_is_refused():
    q, k, v, bias = operands()
    with pytest.raises(ValueError, match="kernel: 'chunked' has no gradient of a bias of the scores; 'reference' can"):
        attend(q, k, v, policy=Policy(bias=bias), kernel="chunked", layout="BHND")
    with pytest.raises(ValueError, match=r"bias: shape \(1, 3, 5, 4\), expected"):
        attend(q, k, v, policy=Policy(bias=bias[..., 1:]), layout="BHND")


def test_on_a_mesh_it_stays_local():
    mesh = mesh_of(data=2, context=2)
    q, k, v, bias = operands()

    def run(partition):
        @jax.jit
        def inside(q, k, v, bias):
            with activation_sharding(mesh, LogicalRules()):
                return attend(q, k, v, policy=Policy(bias=bias), layout="BHND", partition=partition)

        return inside(*jax.device_put((q, k, v, bias), jax.NamedSharding(mesh, jax.P())))

    want = attend(q, k, v, policy=Policy(bias=bias), layout="BHND")
    np.testing.assert_allclose(run("local"), want, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="partition: 'ring' cannot cut a bias of the scores; use 'local'"):
        run("ring")
