"""The one door to attention: layout in, policy honoured, kernel chosen.

    out = attend(q, k, v, policy=Policy(causal=True))

Adding a kernel is one file with a function `(q, k, v, policy, scale) -> out` in `[B, H, N, D]` and one line in
`KERNELS`.  Partitions over the mesh wrap a kernel and take the same place.
"""

from collections.abc import Callable

import jax

from vdm_jax.attention.chunked import choose_tiles, chunked
from vdm_jax.attention.policy import FULL, Policy
from vdm_jax.attention.reference import reference
from vdm_jax.errors import did_you_mean
from vdm_jax.sharding.context import partitioned, target_platform

Array = jax.Array
Kernel = Callable[[Array, Array, Array, Policy, float], Array]


def _chunked(q: Array, k: Array, v: Array, policy: Policy, scale: float) -> Array:
    # Going over heads in groups slices the batch and head dims, which a mesh may have cut already; there the
    # compiler must see all heads at once.
    cpu = target_platform() == "cpu" and not partitioned()
    tiles = choose_tiles(q.shape[0] * q.shape[1], q.shape[2], k.shape[2], cpu)
    return chunked(q, k, v, policy, scale, tiles)


KERNELS: dict[str, Kernel] = {"reference": reference, "chunked": _chunked}


def check_kernel(kernel: str) -> None:
    """Raises ValueError unless `kernel` is `auto` or one of `KERNELS`."""
    if kernel != "auto" and kernel not in KERNELS:
        raise ValueError(f"kernel: {did_you_mean(kernel, ['auto', *KERNELS])}")


def choose_kernel(n_q: int, n_k: int, platform: str) -> str:
    """`auto`: the blockwise kernel on CPUs (its backward is the faster one) and wherever scores would be large."""
    return "chunked" if platform == "cpu" or n_q * n_k > 2**20 else "reference"


def attend(
    q: Array,
    k: Array,
    v: Array,
    *,
    policy: Policy = FULL,
    kernel: str = "auto",
    layout: str = "BNHD",
    scale: float | None = None,
) -> Array:
    """Multi-head attention.

    Args:
      q: `[B, Nq, H, D]` (layout BNHD) or `[B, H, Nq, D]` (layout BHND), any float dtype.
      k, v: the same with Nk.
      policy: what a query may see.
      kernel: a name of `KERNELS`, or `auto`.
      layout: order of the dims of all operands and of the result.
      scale: of the scores; default `D ** -0.5`.

    Returns:
      Attention output in the layout and dtype of `q`; softmax and sums are float32.

    Raises:
      ValueError: unknown kernel or layout, operands that do not fit each other or the masks.
    """
    check_kernel(kernel)
    if layout not in ("BNHD", "BHND"):
        raise ValueError(f"layout: {did_you_mean(layout, ('BNHD', 'BHND'))}")
    if layout == "BNHD":
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    b, h, n_q, d = q.shape
    if k.shape != v.shape or k.shape[:2] != (b, h) or k.shape[3] != d:
        raise ValueError(f"q, k, v: shapes {q.shape}, {k.shape}, {v.shape} ([B, H, N, D]) do not fit")
    policy.check(b, h, n_q, k.shape[2])
    name = choose_kernel(n_q, k.shape[2], target_platform()) if kernel == "auto" else kernel
    out = KERNELS[name](q, k, v, policy, d**-0.5 if scale is None else scale)
    return out.swapaxes(1, 2) if layout == "BNHD" else out
