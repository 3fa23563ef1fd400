"""FreeNoise (2310.15169) as the pipelines of AnimateDiff have it: clips longer than those that motion modules know.

    noise     w frames have noise of their own; blocks of s frames behind them have that of w frames before, shuffled
    network   blocks of motion modules run in windows of w frames at stride s, which are averaged

A clip to change starts from itself and plain noise there, so of it only the network is another one.
"""

import dataclasses
import warnings
from collections.abc import Mapping

from vdm_jax.adapters.windows import window_attention
from vdm_jax.diffusion.solvers import Solver
from vdm_jax.diffusion.windows import Windows
from vdm_jax.interop.pipelines.request import Request
from vdm_jax.models.unet import UNet, UNetConfig
from vdm_jax.sampling.noise import INDEPENDENT, NoiseSource, Rescheduled

# Of `enable_free_noise`, but for being off: w, s, triangular weights or equal ones, shuffled noise or plain.
OPTIONS = {
    "free_noise_context_length": 0,
    "free_noise_context_stride": 4,
    "free_noise_pyramid": 1,
    "free_noise_shuffle": 1,
}


@dataclasses.dataclass(frozen=True)
class FreeNoise:
    """See the top of this file.

    Attributes:
      windows: over frames.
      shuffle: whether noise comes again.
    """

    windows: Windows
    shuffle: bool

    @classmethod
    def of(cls, options: Mapping[str, float | None]) -> "FreeNoise | None":
        """What completed options say; None where it is off.

        Raises:
          ValueError: names the option and what is allowed.
        """
        length, stride, pyramid, shuffle = (options[name] for name in OPTIONS)
        for name, value in (("context_length", length), ("context_stride", stride)):
            if value < 0 or value != int(value):
                raise ValueError(f"free_noise_{name}: {value:g} must be a whole number of frames")
        for name, value in (("pyramid", pyramid), ("shuffle", shuffle)):
            if value not in (0, 1):
                raise ValueError(f"free_noise_{name}: {value:g} must be 1 or 0, for yes or no")
        if length == 0:
            return None
        if not 1 <= stride <= length:
            raise ValueError(
                f"free_noise_context_stride: {stride:g} must be 1 to free_noise_context_length={length:g}, or frames"
                " would be in no window"
            )
        return cls(Windows(int(length), int(stride), "triangular" if pyramid else "uniform"), bool(shuffle))

    def check(self, frames: int, unet: UNetConfig) -> None:
        """Raises ValueError for frames that the windows do not cover, and for windows longer than what is known."""
        self.windows.starts(frames)
        if self.windows.size > unet.max_frames:
            raise ValueError(
                f"free_noise_context_length: {self.windows.size} is more than the {unet.max_frames} frames that the"
                " motion modules have positions for"
            )

    def put_in(self, network: UNet, frames: int) -> None:
        """Gives a network its windows, in place."""
        window_attention(network, self.windows, frames, whole_blocks=True)

    def noise(self, request: Request) -> NoiseSource:
        """What clips start from."""
        plain = request.video is not None or not self.shuffle
        return INDEPENDENT if plain else Rescheduled(self.windows.size, self.windows.stride)

    def warn_of(self, solver: Solver) -> None:
        """Warns of one that draws noise of its own."""
        if self.shuffle and solver.stochastic:
            warnings.warn(
                f"free_noise_shuffle: {type(solver).__name__} draws plain noise at every step, which weakens what"
                " shuffled noise brings; a scheduler without noise, or eta=0, does not",
                stacklevel=3,
            )
