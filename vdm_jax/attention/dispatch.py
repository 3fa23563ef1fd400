"""The one door to attention: layout in, policy honoured, kernel chosen.

out = attend(q, k, v, policy=Policy(causal=True))
"""

import jax

from vdm_jax.attention.choice import kernel_for
from vdm_jax.attention.kernel import View
from vdm_jax.attention.local import attend_locally
from vdm_jax.attention.policy import FULL, Policy
from vdm_jax.errors import did_you_mean
from vdm_jax.sharding.context import target_platform

Array = jax.Array


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
      ValueError: unknown kernel or layout, operands that do not fit each other or the masks, or a kernel that
        cannot honour them.
    """
    if layout not in ("BNHD", "BHND"):
        raise ValueError(f"layout: {did_you_mean(layout, ('BNHD', 'BHND'))}")
    if layout == "BNHD":
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    b, h, n_q, d = q.shape
    if k.shape != v.shape or k.shape[:2] != (b, h) or k.shape[3] != d:
        raise ValueError(f"q, k, v: shapes {q.shape}, {k.shape}, {v.shape} ([B, H, N, D]) do not fit")
    policy.check(b, h, n_q, k.shape[2])
    chosen = kernel_for(kernel, policy, q.shape, k.shape, q.dtype, target_platform())
    out = attend_locally(chosen, q, k, v, View.of(policy, d**-0.5 if scale is None else scale))
    return out.swapaxes(1, 2) if layout == "BNHD" else out
