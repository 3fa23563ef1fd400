"""ControlNet (2302.05543): a second descending half that reads a control picture and adds to the trunk's.

    kept, middle = half(first(x) + embedding(hint));   control = (zero convolutions of kept, one of the middle)

All of its last convolutions are zero in a new network, so the controlled trunk begins as the trunk.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from flax import nnx

from vdm_jax.diffusion.leaves import expand
from vdm_jax.models.unet.config import UNetConfig
from vdm_jax.models.unet.residual import SPACE
from vdm_jax.models.unet.trunk import Control, Half, UNet, stacked
from vdm_jax.nn.conv import Conv
from vdm_jax.types import Condition, check_condition

Array = jax.Array
_ZEROS = jax.nn.initializers.zeros


@dataclasses.dataclass(frozen=True)
class ControlConfig:
    """A ControlNet.

    Attributes:
      trunk: the UNet whose descending half it has; without a temporal unit.
      hint_channels: of the control picture.
      hint_widths: channels of its embedding, from the picture's size down to that of the latents: each but the first
        halves height and width.

    Raises:
      ValueError: names the field and what is allowed.
    """

    trunk: UNetConfig
    hint_channels: int = 3
    hint_widths: tuple[int, ...] = (16, 32, 96, 256)

    def __post_init__(self):
        if self.trunk.temporal != "none":
            raise ValueError(f"trunk.temporal: {self.trunk.temporal!r}, but a ControlNet sees pictures ('none')")
        if self.hint_channels < 1 or min(self.hint_widths, default=0) < 1:
            raise ValueError(
                f"hint_widths: {self.hint_widths} and hint_channels={self.hint_channels} must be 1 or more"
            )

    @property
    def reads(self) -> frozenset[str]:
        """The condition keys this model reads."""
        return self.trunk.reads | {"hint"}

    @property
    def hint_scale(self) -> int:
        """How many pixels of the control picture a latent stands for, along each side."""
        return 2 ** (len(self.hint_widths) - 1)


class HintEmbedding(nnx.Module):
    """`[B, T, s H, s W, c] -> [B, T, H, W, out]` for s the `hint_scale`."""

    def __init__(self, cfg: ControlConfig, out: int, *, rngs: nnx.Rngs):
        widths = cfg.hint_widths
        self.first = Conv(cfg.hint_channels, widths[0], SPACE, rngs=rngs)
        self.convs = nnx.List([])
        for width, below in itertools.pairwise(widths):
            self.convs.append(Conv(width, width, SPACE, rngs=rngs))
            self.convs.append(Conv(width, below, SPACE, stride=2, rngs=rngs))
        self.last = Conv(widths[-1], out, SPACE, init=_ZEROS, rngs=rngs)

    def __call__(self, hint: Array) -> Array:
        h = jax.nn.silu(self.first(hint))
        for conv in self.convs:
            h = jax.nn.silu(conv(h))
        return self.last(h)


class ControlNet(Half):
    """The branch alone.

    Args:
      config: the architecture.
      rngs: `params` is used.
    """

    def __init__(self, config: ControlConfig, rngs: nnx.Rngs):
        super().__init__(config.trunk, rngs)
        trunk = config.trunk
        self.control = config
        self.hint = HintEmbedding(config, trunk.widths[0], rngs=rngs)
        kept = [trunk.widths[0]]
        for level, width in enumerate(trunk.widths):
            kept += [width] * (trunk.layers[level] + (level < len(trunk.widths) - 1))
        self.outs = nnx.List([_zero_conv(width, rngs) for width in kept])
        self.mid_out = _zero_conv(trunk.widths[-1], rngs)

    @property
    def reads(self) -> frozenset[str]:
        """Condition keys that this model reads."""
        return self.control.reads

    def __call__(self, x: Array, t: Array, cond: Condition | None = None) -> Control:
        """What to add to the trunk.

        Args:
          x, t, cond: as in `UNet`; `hint [B, T, s H, s W, c]` in [0, 1], s the `hint_scale`.

        Returns:
          See `UNet`'s argument `control`.

        Raises:
          ValueError: unread or missing condition keys, a control picture of another size.
        """
        cond = dict(cond or {})
        check_condition(cond, self.reads, "ControlNet", needs=self.reads)
        b, frames, height, width, _ = x.shape
        hint, scale = cond["hint"].astype(x.dtype), self.control.hint_scale
        wanted = (b, frames, height * scale, width * scale, self.control.hint_channels)
        if hint.shape != wanted:
            raise ValueError(f"condition: hint has shape {hint.shape}, expected [B, T, H, W, C]={wanted}")
        ctx = self.context(frames, b, t, cond, x.dtype)
        h, kept = self.descend(self.first(stacked(x, cond)) + self.hint(hint), ctx)
        return Control(tuple(out(y) for out, y in zip(self.outs, kept, strict=True)), self.mid_out(h))


def _zero_conv(width: int, rngs: nnx.Rngs) -> Conv:
    return Conv(width, width, (1, 1), init=_ZEROS, rngs=rngs)


class ControlledUNet(nnx.Module):
    """A trunk and a branch as one network.

    Args:
      unet: the trunk, with any temporal unit.
      branch: of a trunk of the same widths and layers.
      strength: factor of what the branch adds.
    """

    def __init__(self, unet: UNet, branch: ControlNet, strength: float = 1.0):
        mine, its = unet.config, branch.config
        if (mine.widths, mine.layers) != (its.widths, its.layers):
            raise ValueError(
                f"branch: of widths {its.widths} and layers {its.layers}, the UNet has {mine.widths} and {mine.layers}"
            )
        self.unet, self.branch, self.strength = unet, branch, strength

    @property
    def reads(self) -> frozenset[str]:
        """Condition keys that this model reads."""
        return self.unet.reads | self.branch.reads

    @property
    def may_read(self) -> frozenset[str]:
        """What it reads where it is given."""
        return self.reads

    def __call__(self, x: Array, t: Array, cond: Condition | None = None, *, share: Array | float = 1.0) -> Array:
        """As `UNet`, with `hint` among the conditions; `share`, a number or `[B, T]`, is one more such factor."""
        cond = dict(cond or {})
        check_condition(cond, self.reads, "ControlledUNet", needs=self.reads)

        def of(reads: frozenset[str]) -> Condition:
            return {key: value for key, value in cond.items() if key in reads or key == "tokens_mask"}

        control = self.branch(x, t, of(self.branch.reads))
        factor = jnp.asarray(self.strength * share, x.dtype)
        scaled = Control(tuple(y * expand(factor, y) for y in control.down), control.mid * expand(factor, control.mid))
        return self.unet(x, t, of(self.unet.reads), control=scaled)
