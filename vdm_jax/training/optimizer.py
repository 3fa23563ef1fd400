"""Optimisers: AdamW (arXiv:1711.05101) and Muon, with a weight-decay filter.

The optax chain is built at learning rate one and the train step multiplies its updates by `learning_rate(step)`:

    u_n = -(m_hat / (sqrt(v_hat) + eps) + decay * w)        w <- w + learning_rate(n) u_n

so the rate is a function of the training step alone and can be logged.  Clipping by global norm is done by the
step too, which needs the norm anyway.

Muon (K. Jordan 2024; scaled to AdamW's update size as in arXiv:2502.16982) orthogonalises the momentum of the
matrices inside the stacked blocks; all else (embeddings, norms, biases, first and last layers) stays with AdamW.
Stacked kernels are `[layers, in, *out]`: each layer is its own matrix `in x prod(out)`.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from optax import contrib

from vdm_jax.errors import did_you_mean
from vdm_jax.nn.path_filter import matches
from vdm_jax.training.schedule import SCHEDULES, Schedule, make_schedule

KINDS = ("adamw", "muon")

_ADAM_RMS = 0.2  # root mean square of AdamW's updates; Muon's are scaled to it, so that one learning rate serves both

# What decays is said, not what does not: a pull towards zero harms offsets, gains, gates, embeddings and tables of any
# name, and matrices are all called kernel.
DECAY = ("kernel",)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """An optimiser and its learning-rate schedule.

    Attributes:
      kind: `adamw` or `muon`.
      learning_rate: peak.
      schedule: `constant`, `cosine` or `wsd`.
      warmup: steps of linear warm-up.
      final: last rate as a fraction of the peak.
      decay_fraction: part of the run in which `wsd` comes down.
      beta1, beta2, eps: of Adam.
      momentum: of Muon.
      weight_decay: decoupled; multiplied by the learning rate.
      decay: path patterns (`path_filter`) of the parameters that decay.
      clip_norm: largest global gradient norm; None does not clip.
    """

    kind: str = "adamw"
    learning_rate: float = 3e-4
    schedule: str = "cosine"
    warmup: int = 100
    final: float = 0.0
    decay_fraction: float = 0.2
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.95
    weight_decay: float = 0.01
    decay: tuple[str, ...] = DECAY
    clip_norm: float | None = 1.0

    def __post_init__(self):
        for name, allowed in (("kind", KINDS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: {did_you_mean(getattr(self, name), allowed)}")
        for name in ("learning_rate", "eps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: {getattr(self, name)!r} must be above 0")
        for name in ("warmup", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)!r} must be 0 or more")
        for name in ("beta1", "beta2", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)!r} must be in [0, 1)")
        for name in ("final", "decay_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: {getattr(self, name)!r} must be in [0, 1]")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm: {self.clip_norm!r} must be above 0, or None for no clipping")


def make_learning_rate(config: OptimizerConfig, steps: int) -> Schedule:
    """`learning_rate(step)` of a run of `steps` steps."""
    return make_schedule(
        config.schedule, config.learning_rate, config.warmup, steps, config.final, config.decay_fraction
    )


def make_optimizer(config: OptimizerConfig, axes: Mapping[str, Any]) -> optax.GradientTransformation:
    """The optax chain at learning rate one.

    Args:
      config: which.
      axes: logical names of the parameters it will see (`sharding.logical_axes`); Muon takes those under `layers`.

    Returns:
      A transformation over nested dicts of parameters with the paths of `axes`, or any subset of them.
    """
    names = flatten_dict(axes)
    adam = optax.scale_by_adam(config.beta1, config.beta2, config.eps)
    muon = optax.chain(
        contrib.scale_by_muon(beta=config.momentum, weight_dimension_numbers=_matrix_dims),
        optax.stateless_with_tree_map(lambda u, _: _ADAM_RMS * max(u.shape[1], math.prod(u.shape[2:])) ** 0.5 * u),
    )

    def kinds(params: Mapping[str, Any]) -> dict[str, Any]:
        decay = flatten_dict(decays(params, config.decay))
        return unflatten_dict({path: "muon" if decay[path] and _is_stacked(names[path]) else "adam" for path in decay})

    return optax.chain(
        adam if config.kind == "adamw" else optax.partition({"muon": muon, "adam": adam}, kinds),
        optax.add_decayed_weights(config.weight_decay, mask=lambda params: decays(params, config.decay)),
        optax.scale(-1.0),
    )


def decays(params: Mapping[str, Any], patterns: tuple[str, ...] = DECAY) -> dict[str, Any]:
    """Nested dict of bools: which parameters weight decay pulls on."""
    paths = flatten_dict(params)
    return unflatten_dict({path: any(matches(path, pattern) for pattern in patterns) for path in paths})


def clip_scale(grad_norm: jax.Array, clip_norm: float | None) -> jax.Array | float:
    """What to multiply gradients of this global norm by so that the norm is at most `clip_norm`."""
    if clip_norm is None:
        return 1.0
    return clip_norm / jax.numpy.maximum(grad_norm, clip_norm)


def _is_stacked(names: tuple[str | None, ...] | None) -> bool:
    """Whether an array is one matrix `[in, *out]` for each layer."""
    return names is not None and len(names) >= 3 and names[0] == "layers"


def _matrix_dims(params: Any) -> Any:
    """`contrib.MuonDimensionNumbers` of each stacked kernel; optax leaves empty nodes where Adam works."""
    return jax.tree.map(lambda p: contrib.MuonDimensionNumbers(1, tuple(range(2, p.ndim))), params)
