"""Where the shots of a video end, and the clips that lie inside them.

Shot boundaries are hard cuts (one picture to the next) and fades (dissolves, and fades through a plain colour, over
some tenths of a second up to seconds).  Times are seconds since the first picture, to the millisecond.
"""

import dataclasses

HARD, FADE = "hard", "fade"


@dataclasses.dataclass(frozen=True)
class CutSettings:
    """How cuts are looked for.

    Attributes:
      side: pixels of the shorter side of the pictures that are compared; they are never enlarged.
      rate: pictures compared a second, at most; every picture of a slower video is.
    """

    side: int = 64
    rate: float = 30.0

    def __post_init__(self):
        if not 16 <= self.side <= 512:
            raise ValueError(f"side: {self.side!r} is not within 16..512")
        if not 4 <= self.rate <= 240:
            raise ValueError(f"rate: {self.rate!r} is not within 4..240")


@dataclasses.dataclass(frozen=True, order=True)
class Cut:
    """The end of a shot.

    Attributes:
      time: display time of the new shot's first picture (`hard`), or of the middle of the transition (`fade`).
      kind: `hard` or `fade`.
      strength: how different the shots are, 0 to 1.
      width: seconds from the last picture of the old shot alone to the first of the new one alone.
    """

    time: float
    kind: str
    strength: float
    width: float = 0.0

    def __post_init__(self):
        for name, digits in (("time", 3), ("strength", 4), ("width", 3)):
            object.__setattr__(self, name, round(float(getattr(self, name)), digits))
        if self.kind not in (HARD, FADE):
            raise ValueError(f"kind: {self.kind!r} is neither {HARD} nor {FADE}")

    @property
    def start(self) -> float:
        """Second from which the pictures no longer belong to the old shot alone."""
        return self.time if self.kind == HARD else round(self.time - self.width / 2, 3)

    @property
    def end(self) -> float:
        """Second from which the pictures belong to the new shot alone."""
        return self.time if self.kind == HARD else round(self.time + self.width / 2, 3)
