"""The guard: an update that would damage the weights is left out and counted.

An update is skipped when its loss or gradient norm is not finite, or, if asked for, when the norm is a spike:

    norm > mean + k std          of the last `window` accepted norms, once there are that many

Skipping happens on the device by selection: parameters, moments and averages keep their exact bits.  The host looks
at the counters when it reads metrics, one step late, and stops the run after too many skips in a row: one bad
batch is weather, twenty are a diverged run that would only burn hours.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vdm_jax.errors import RunError

Array = jax.Array
GuardState = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class GuardConfig:
    """When to skip an update and when to give up.

    Attributes:
      max_consecutive: skips in a row that stop the run.
      spike_sigma: k of the spike rule; None (the default) skips only what is not finite.
      window: accepted norms the spike rule looks back on.
    """

    max_consecutive: int = 20
    spike_sigma: float | None = None
    window: int = 128

    def __post_init__(self):
        if self.max_consecutive < 1:
            raise ValueError(f"max_consecutive: {self.max_consecutive!r} must be 1 or more")
        if self.spike_sigma is not None and not self.spike_sigma > 0:
            raise ValueError(f"spike_sigma: {self.spike_sigma!r} must be above 0, or None to ignore spikes")
        if self.window < 2:
            raise ValueError(f"window: {self.window!r} must be 2 or more")


def init_guard(config: GuardConfig) -> GuardState:
    """Counters of one update: `skipped` and `consecutive` int32, and the norms the spike rule needs."""
    state = {"skipped": jnp.int32(0), "consecutive": jnp.int32(0)}
    if config.spike_sigma is not None:
        state |= {"accepted": jnp.int32(0), "norms": jnp.zeros((config.window,), jnp.float32)}
    return state


def accepts(config: GuardConfig, state: GuardState, loss: Array, grad_norm: Array) -> Array:
    """Scalar bool: whether the update may be applied."""
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    if config.spike_sigma is None:
        return finite
    norms = state["norms"]
    limit = norms.mean() + config.spike_sigma * norms.std()
    return finite & ((state["accepted"] < config.window) | (grad_norm <= limit))


def count(config: GuardConfig, state: GuardState, accepted: Array, grad_norm: Array) -> GuardState:
    """The counters after an update."""
    skip = (~accepted).astype(jnp.int32)
    new = {"skipped": state["skipped"] + skip, "consecutive": (state["consecutive"] + 1) * skip}
    if config.spike_sigma is not None:
        slot = state["accepted"] % config.window
        norms = state["norms"].at[slot].set(jnp.where(accepted, grad_norm, state["norms"][slot]))
        new |= {"accepted": state["accepted"] + 1 - skip, "norms": norms}
    return new


def keep_if(accepted: Array, new: Any, old: Any) -> Any:
    """`new` in the dtypes of `old` where accepted, else the bits of `old`."""
    return jax.tree.map(lambda n, o: jnp.where(accepted, n.astype(o.dtype), o), new, old)


def check_skips(config: GuardConfig, step: int, metrics: Mapping[str, Any]) -> None:
    """Stops a run whose updates are skipped again and again; called by the host on metrics it has read.

    Args:
      config: the limit.
      step: for the message.
      metrics: of the train step, as numbers; looks at every `skipped_in_a_row`.

    Raises:
      RunError: too many skips in a row.
    """
    for name, value in metrics.items():
        if name.rpartition("/")[2] == "skipped_in_a_row" and int(value) >= config.max_consecutive:
            update = name.rpartition("/")[0]
            which = f" of {update!r}" if update else ""
            raise RunError(
                f"step {step}: {int(value)} updates{which} in a row were skipped because loss or gradients are not "
                "finite or spike; weights are as before the first of them. Lower the learning rate, or look at the data"
            )
