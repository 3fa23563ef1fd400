"""FreeInit (2312.07537): noise with the low frequencies of a clip that was noised, and new high ones.

    noise = F^-1( L F z + (1 - L) F new ),    z = q(x_0) at the last level, by the noise that x_0 came from
    L     = 1 / (1 + (d^2 / s^2)^order),      d^2 = (s f_T / r)^2 + f_H^2 + f_W^2

F over frames, height and width; f are frequencies, 1 the highest there is; s and r say where the filter stops in space
and in time.  The last level of training still shows the slowest frequencies of a clip and plain noise has none of any,
so a network that is given these again makes clips that hang together better over time.

The frequency 0 is where published code has it: half a step off the middle of an odd number of frames, rows or columns.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from vdm_jax.types import Array

_OVER = (1, 2, 3)  # dims of `[B, T, H, W, C]`


@dataclasses.dataclass(frozen=True)
class FreeInit:
    """What is kept.

    Attributes:
      order: how sharply the filter falls.
      spatial, temporal: where it has fallen to a half, as a part of the highest frequency; 0 keeps nothing.

    Raises:
      ValueError: names the field and what is allowed.
    """

    order: int = 4
    spatial: float = 0.25
    temporal: float = 0.25

    def __post_init__(self):
        if self.order < 1:
            raise ValueError(f"order: {self.order} must be 1 or more")
        for name in ("spatial", "temporal"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}: {getattr(self, name)} must lie between 0 and 1, the highest frequency")

    def gain(self, frames: int, height: int, width: int) -> np.ndarray:
        """L, `[T, H, W]` float32, in the order in which `fftn` has frequencies."""
        if self.spatial == 0.0 or self.temporal == 0.0:
            return np.zeros((frames, height, width), np.float32)
        time, rows, columns = (2.0 * np.arange(size) / size - 1.0 for size in (frames, height, width))
        time = self.spatial / self.temporal * time
        squared = time[:, None, None] ** 2 + rows[:, None] ** 2 + columns**2
        return np.fft.ifftshift(1.0 / (1.0 + (squared / self.spatial**2) ** self.order)).astype(np.float32)

    def mix(self, noised: Array, new: Array) -> Array:
        """The noise.

        Args:
          noised: z above, `[B, T, H, W, C]`.
          new: standard normal noise like it.

        Returns:
          float32 like both.
        """
        gain = jnp.asarray(self.gain(*noised.shape[1:4]))[..., None]
        # Both filters are real and even but for the half step, so that of what is left an imaginary part is cut off.
        low, high = (jnp.fft.fftn(x.astype(jnp.float32), axes=_OVER) for x in (noised, new))
        return jnp.fft.ifftn(gain * low + (1.0 - gain) * high, axes=_OVER).real
