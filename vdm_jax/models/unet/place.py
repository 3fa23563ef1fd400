"""Where a layer of the UNet's trunk stands, and so what it has."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Place:
    """A place.

    Attributes:
      channels: width of the level.
      eps: of the residual block's norms.
      heads, depth: of the spatial transformer; depth 0 is none.
      motion_heads, motion_depth: of the motion module; depth 0 is none.
    """

    channels: int
    eps: float
    heads: int
    depth: int
    motion_heads: int
    motion_depth: int
