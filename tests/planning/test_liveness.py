import jax
import jax.numpy as jnp
import pytest

from tests.planning.small_run import small_trace
from vdm_jax.planning.liveness import _Walk, peak_live

KIB = 1024


def peak(function, *arguments, **options):
    return _Walk({}, 1.0, **options).peak(jax.make_jaxpr(function)(*arguments).jaxpr)


def test_what_is_read_again_stays():
    x = jnp.zeros((16, 16))  # 1 KiB
    assert peak(lambda x: jnp.sin(jnp.sin(jnp.sin(x))), x) == 2 * KIB  # what goes in and what comes out
    assert peak(lambda x: (lambda a: a + jnp.sin(jnp.sin(a)))(jnp.cos(x)), x) == 3 * KIB


def test_a_scan_stacks_what_the_backward_pass_reads():
    x, w = jnp.zeros((16, 16)), jnp.zeros((8, 16, 16))
    saved = lambda w: jax.lax.scan(lambda c, w: (jnp.sin(c @ w), None), x, w)[0].sum()  # noqa: E731
    assert peak(jax.grad(saved), w) > peak(saved, w) + 8 * KIB


def test_shares_divide():
    x = jnp.zeros((16, 16))
    whole = peak(jnp.sin, x)
    assert _Walk({(16, 16): 4.0}, 1.0).peak(jax.make_jaxpr(jnp.sin)(x).jaxpr) == whole / 4
    assert _Walk({}, 2.0).peak(jax.make_jaxpr(jnp.sin)(x).jaxpr) == whole / 2


def test_remat_meshes_and_batches_change_the_peak_as_they_should():
    def live(remat="none", batch=8, **mesh):
        traced = small_trace("h100:8", model={"remat": remat}, mesh=mesh, train={"batch_size": batch})
        return peak_live(traced.stages.jaxpr, traced.run.plan).device

    none = live(data=8, fsdp=1)
    assert live("full", data=8, fsdp=1) < none
    assert live(data=1, fsdp=8) < none
    assert live(data=8, fsdp=1, batch=16) == pytest.approx(2 * none, rel=0.5)
    assert live(data=8, fsdp=1, batch=16) > none


def test_offloaded_bytes_are_the_hosts():
    traced = small_trace("h100:8", model={"remat": "offload"})
    assert peak_live(traced.stages.jaxpr, traced.run.plan).host > 0
