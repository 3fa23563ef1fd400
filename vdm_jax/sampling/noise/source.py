"""Noise sources: what stands in for i.i.d. Gaussian noise, in training and as the start of sampling.

A source draws the noise of ONE clip from a key; batches are drawn by `draw`, a key each, so that an example's noise
does not depend on the batch it came in.  Each says how large its noise is (`variance`), because the process assumes 1:
levels, targets and solvers are wrong by as much as that is not so.  Sources may read what comes with the clip
(`reads`): the flow that it is to follow, a picture that it is to resemble.

    noise = draw(source, keys, x0, batch)                 keys [B], like x0
    x_t   = process.q_sample(x0, noise, t)                training: `DenoisingObjective(noise=source)`
    x_T   = process.prior(key, like, noise)               sampling
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax

from vdm_jax.diffusion.leaves import noise_like
from vdm_jax.types import Array, Clip


class NoiseSource(Protocol):
    """One clip's noise.

    Attributes:
      variance: of each element of the noise, over draws; 1 is what every process assumes.
      reads: keys of the batch (or of the condition) it needs.  A source that reads something also has
        `shapes(clip_shape) -> {key: shape}`, of one clip's, which is planned with.
    """

    variance: float
    reads: frozenset[str]

    def __call__(self, rng: Array, like: Clip, given: Mapping[str, Any]) -> Clip:
        """Args:
          rng: a key.
          like: a clip without the batch, `[T, ...]` (or a dict of such): the shape wanted.
          given: what `reads` names, without the batch.

        Returns:
          float32 noise like `like`.
        """


@dataclasses.dataclass(frozen=True)
class Independent:
    """Plain noise: N(0, 1), every element by itself."""

    variance = 1.0
    reads = frozenset()

    def __call__(self, rng: Array, like: Clip, given: Mapping[str, Any]) -> Clip:
        return noise_like(rng, like)


INDEPENDENT = Independent()


def draw(source: NoiseSource, keys: Array, like: Clip, given: Mapping[str, Any]) -> Clip:
    """The noise of a batch.

    Args:
      source: see `NoiseSource`.
      keys: `[B]`.
      like: `[B, T, ...]`, or a dict of such.
      given: the batch or the condition; only what the source reads is looked at.

    Raises:
      ValueError: something that the source reads is not there.
    """
    if missing := sorted(source.reads - given.keys()):
        has = ", ".join(sorted(given)) or "nothing"
        raise ValueError(f"noise: {type(source).__name__} needs {', '.join(missing)} with the clips (there is: {has})")
    return jax.vmap(source)(keys, like, {key: given[key] for key in source.reads})
