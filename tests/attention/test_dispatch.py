import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.cases import POLICIES, SCALE, operands, reference
from vdm_jax.attention import Policy, attend

ANYWHERE = ("reference", "chunked")


@pytest.mark.parametrize("kernel", [*ANYWHERE, "auto"])
def test_kernels_and_layouts_agree(kernel):
    q, k, v, _ = operands()
    want = reference(q, k, v, POLICIES["all"], SCALE)
    heads_first = attend(q, k, v, policy=POLICIES["all"], kernel=kernel, layout="BHND", scale=SCALE)
    np.testing.assert_allclose(heads_first, want, rtol=1e-5, atol=1e-5)
    swapped = (x.swapaxes(1, 2) for x in (q, k, v))
    tokens_first = attend(*swapped, policy=POLICIES["all"], kernel=kernel, scale=SCALE)
    np.testing.assert_array_equal(tokens_first.swapaxes(1, 2), heads_first)


def test_the_default_scale_is_one_over_the_root_of_the_head_dim():
    q, k, v, _ = operands()
    got = attend(q, k, v, layout="BHND")
    np.testing.assert_allclose(got, reference(q, k, v, Policy(), q.shape[-1] ** -0.5), rtol=1e-5, atol=1e-5)


def test_the_dtype_is_that_of_the_queries():
    q, k, v, _ = operands(dtype=jnp.bfloat16)
    assert {attend(q, k, v, kernel=kernel, layout="BHND").dtype for kernel in ANYWHERE} == {jnp.dtype("bfloat16")}


def test_auto_asks_for_the_platform_of_the_program():
    q, k, v, _ = operands()
    primitives = str(jax.make_jaxpr(lambda q, k, v: attend(q, k, v, layout="BHND"))(q, k, v))
    assert "custom_vjp" in primitives  # the blockwise kernel brings its own backward pass
    plain = str(jax.make_jaxpr(lambda q, k, v: attend(q, k, v, layout="BHND", kernel="reference"))(q, k, v))
    assert "custom_vjp" not in plain


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "chunkd"}, "kernel: unknown 'chunkd'; did you mean 'chunked'"),
        ({"layout": "BNDH"}, "layout: unknown 'BNDH'; did you mean 'BNHD'"),
        ({"kernel": "splash"}, "kernel: 'splash' runs on TPUs, and this program is for a cpu; 'chunked' can"),
        ({"policy": Policy(key_mask=jnp.ones((2, 9), bool))}, "key_mask: shape"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(options, message):
    q, k, v, _ = operands()
    with pytest.raises(ValueError, match=message):
        attend(q, k, v, **{"layout": "BHND", **options})


@pytest.mark.parametrize("wrong", [(2, 3, 10, 4), (2, 2, 11, 4), (1, 3, 11, 4), (2, 3, 11, 5)])
def test_keys_and_values_that_differ_are_refused(wrong):
    q, k, _, _ = operands()
    with pytest.raises(ValueError, match="q, k, v: shapes .* do not fit"):
        attend(q, k, jnp.zeros(wrong), layout="BHND")


@pytest.mark.parametrize("wrong", [(2, 2, 11, 4), (1, 3, 11, 4), (2, 3, 11, 5)])
def test_keys_that_do_not_fit_the_queries_are_refused(wrong):
    q, _, _, _ = operands()
    with pytest.raises(ValueError, match="q, k, v: shapes .* do not fit"):
        attend(q, jnp.zeros(wrong), jnp.zeros(wrong), layout="BHND")
