"""Which clips an autoencoder can represent, and how many latents it makes of them."""

import dataclasses

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Grid:
    """Sizes of clips `[B, T, H, W, C]` and of their latents `[B, t, h, w, c]`.

    Attributes:
      frames: of the clip to each latent frame.
      side: pixels of the clip along each side of a latent.
      period, remainders: T is representable where `T % period` is one of these; the first frame of a clip may have a
        latent frame of its own.
    """

    frames: int
    side: int
    period: int = 1
    remainders: tuple[int, ...] = (0,)

    def check_clip(self, shape: Shape, *, continued: bool = False) -> None:
        """Refuses a clip that would come back with another shape.

        Args:
          shape: `[B, T, H, W, C]`.
          continued: whether other frames of the same clip went before.

        Raises:
          ValueError: names the size and the nearest that would do.
        """
        if len(shape) != 5:
            raise ValueError(f"clip: shape {shape} is not [B, T, H, W, C]")
        fits = (lambda n: n % self.period == 0) if continued else (lambda n: n % self.period in self.remainders)
        _check("frames", shape[1], fits)
        for name, size in zip(("height", "width"), shape[2:4]):
            _check(name, size, lambda n: n % self.side == 0)

    def check_latents(self, shape: Shape, channels: int) -> None:
        """Raises ValueError unless `shape` is `[B, t, h, w, c]` with so many channels."""
        if len(shape) != 5 or shape[-1] != channels or 0 in shape:
            raise ValueError(f"latents: shape {shape} is not [B, t, h, w, {channels}]")

    def latent_frames(self, frames: int) -> int:
        """Latent frames of a clip, from its start."""
        return -(-frames // self.frames)

    def clip_frames(self, latent_frames: int) -> int:
        """Frames of the clip, from its start, that so many latent frames decode to."""
        fitting = range(self.frames * (latent_frames - 1) + 1, self.frames * latent_frames + 1)
        whole = [n for n in fitting if n % self.period in self.remainders]
        assert whole, f"{latent_frames} latent frames are those of no clip"
        return whole[0]


def _check(name: str, size: int, fits) -> None:
    """Raises ValueError, with the next sizes below and above that fit."""
    if size > 0 and fits(size):
        return
    below = next((n for n in range(size - 1, 0, -1) if fits(n)), None)
    above = next(n for n in range(max(size, 0) + 1, max(size, 0) + 1000) if fits(n))
    nearest = f"{above}" if below is None else f"{below} or {above}"
    raise ValueError(f"clip: {size} {name} cannot be represented; the nearest that can: {nearest}")
