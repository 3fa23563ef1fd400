"""The trunk: a UNet over clips, every frame at its own time.

    x -> first -> [levels down, all outputs kept] -> middle -> [levels up, each layer also reads one kept] -> last

The time of a frame reaches its residual blocks only, so a network trained with one time a clip runs with one a frame.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from vdm_jax.models.unet.config import UNetConfig
from vdm_jax.models.unet.layers import Layer
from vdm_jax.models.unet.place import Place
from vdm_jax.models.unet.residual import SPACE, Downsample, Upsample
from vdm_jax.models.unet.temporal import UNITS
from vdm_jax.models.unet.transformer import Context
from vdm_jax.nn import taps
from vdm_jax.nn.conv import Conv
from vdm_jax.nn.embeddings import ScalarEmbedding, VectorEmbedding, sinusoidal
from vdm_jax.nn.group_norm import GroupNorm
from vdm_jax.nn.stack import REMAT_POLICIES
from vdm_jax.types import Condition, as_time, check_condition

Array = jax.Array
_ZEROS = jax.nn.initializers.zeros


@dataclasses.dataclass(frozen=True)
class Control:
    """What a control branch adds to a trunk: to each kept output of the levels down, and to the middle."""

    down: tuple[Array, ...]
    mid: Array


class Level(nnx.Module):
    """The layers of one level and the way to the next; `resize` is None at the last one."""

    def __init__(self, cfg: UNetConfig, places: list[tuple[int, Place]], resize: nnx.Module | None, rngs: nnx.Rngs):
        self.layers = nnx.List([Layer(cfg, *at, rngs=rngs) for at in places])
        self.resize = resize


class Half(nnx.Module):
    """The descending half and the middle, which control branches have too."""

    def __init__(self, cfg: UNetConfig, rngs: nnx.Rngs):
        self.config = cfg
        self.first = Conv(cfg.in_channels, cfg.widths[0], SPACE, rngs=rngs)
        self.time = ScalarEmbedding(cfg.time_dim, frequencies=cfg.widths[0], rngs=rngs)
        numbers = len(cfg.scalars) * cfg.scalar_dim
        self.scalars = VectorEmbedding(numbers, cfg.time_dim, rngs=rngs) if numbers else None
        self.entry = UNITS[cfg.temporal].entry(cfg, rngs)
        self.down = nnx.List([])
        for level, width in enumerate(cfg.widths):
            coarser = level < len(cfg.widths) - 1
            self.down.append(Level(cfg, cfg.down(level), Downsample(width, rngs=rngs) if coarser else None, rngs))
        self.mid = nnx.List([Layer(cfg, *at, rngs=rngs) for at in cfg.mid()])

    def context(self, frames: int, batch: int, t: Array, cond: Condition, dtype: jnp.dtype) -> Context:
        """What all layers see; arguments as in `UNet`.

        Raises:
          ValueError: missing or unread entries of `vector`, tokens or `image_only` for another number of frames.
        """
        e = self.time(as_time(t, batch, frames), dtype)
        if self.scalars is not None:
            e = e + self._scalars(dict(cond["vector"]), dtype)
        text, mask = cond["tokens"].astype(dtype), cond.get("tokens_mask")
        if text.ndim == 4:
            if text.shape[1] != frames:
                raise ValueError(f"condition: tokens are given for {text.shape[1]} frames, the clip has {frames}")
            mask = mask if mask is None else jnp.broadcast_to(mask[:, None], text.shape[:3])
        image_only = cond.get("image_only")
        if image_only is not None and image_only.shape != (batch, frames):
            raise ValueError(f"condition: image_only has shape {image_only.shape}, expected [B, T]=({batch}, {frames})")
        return Context(jax.nn.silu(e), text, mask, image_only)

    def _scalars(self, vector: dict[str, Array], dtype) -> Array:
        wanted = self.config.scalars
        if missing := [name for name in wanted if name not in vector]:
            raise ValueError(f"condition: UNet needs vector entries {', '.join(missing)}")
        if extra := sorted(vector.keys() - set(wanted)):
            raise ValueError(f"condition: UNet does not read vector entries {', '.join(extra)}")
        numbers = [sinusoidal(vector[name], self.config.scalar_dim).astype(dtype) for name in wanted]
        return self.scalars(jnp.concatenate(numbers, axis=-1))[:, None]

    def descend(self, x: Array, ctx: Context) -> tuple[Array, list[Array]]:
        """From the output of `first` to that of the middle, and all that is kept on the way."""
        run = rematerialised(self.config.remat)
        x = x if self.entry is None else self.entry(x)
        kept = [x]
        for level in self.down:
            for layer in level.layers:
                x = run(layer, x, ctx)
                kept.append(x)
            if level.resize is not None:
                x = level.resize(x)
                kept.append(x)
        for layer in self.mid:
            x = run(layer, x, ctx)
        return x, kept


class UNet(Half):
    """See `UNetConfig` for the options.

    Args:
      config: the architecture.
      rngs: `params` is used.
    """

    def __init__(self, config: UNetConfig, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        cfg = config
        self.up = nnx.List([])  # from the coarsest level
        for level, width in reversed(list(enumerate(cfg.widths))):
            self.up.append(Level(cfg, cfg.up(level), Upsample(width, rngs=rngs) if level else None, rngs))
        self.last_norm = GroupNorm(cfg.widths[0], cfg.groups, dims=2, eps=cfg.eps, rngs=rngs)
        self.last = Conv(cfg.widths[0], cfg.channels, SPACE, init=_ZEROS, rngs=rngs)

    @property
    def reads(self) -> frozenset[str]:
        """Condition keys that this model reads."""
        return self.config.reads

    @property
    def may_read(self) -> frozenset[str]:
        """What it reads where it is given."""
        return self.config.may_read

    def __call__(self, x: Array, t: Array, cond: Condition | None = None, *, control: Control | None = None) -> Array:
        """Predicts what the process asks of its network.

        Args:
          x: `[B, T, H, W, C]`, any float dtype; the network computes in it.
          t: `[B, T]` or `[B]`, what the network is told of the time (`process.network_time`).
          cond: see `types.CONDITION_KEYS`; must hold every key the model reads.
          control: of a control branch (see `ControlNet`).

        Returns:
          `[B, T, H, W, C]` in the dtype of `x`.

        Raises:
          ValueError: unread or missing condition keys, more frames than there are positions for.
        """
        cond = dict(cond or {})
        check_condition(cond, self.may_read, "UNet", needs=self.reads)
        b, frames, height, width, _ = x.shape
        self.config.token_grid(frames, height, width)
        ctx = self.context(frames, b, t, cond, x.dtype)
        h, kept = self.descend(self.first(stacked(x, cond)), ctx)
        if control is not None:
            h, kept = h + control.mid, [a + b for a, b in zip(kept, control.down, strict=True)]
        run = rematerialised(self.config.remat)
        for level in self.up:
            for layer in level.layers:
                h = run(layer, jnp.concatenate([h, kept.pop()], axis=-1), ctx)
            if level.resize is not None:
                h = level.resize(h, *kept[-1].shape[2:4])
        return self.last(jax.nn.silu(self.last_norm(h)))


def stacked(x: Array, cond: Condition) -> Array:
    """The clip with `concat` behind its channels."""
    return jnp.concatenate([x, cond["concat"].astype(x.dtype)], axis=-1) if "concat" in cond else x


def rematerialised(policy: str) -> Callable[[Layer, Array, Context], Array]:
    """Runs a layer, keeping for the backward pass what the policy says."""

    def run(layer: Layer, x: Array, ctx: Context) -> Array:
        if policy == "none":
            return layer(x, ctx)

        def read(layer: Layer, x: Array) -> tuple[Array, dict[str, Array]]:
            with taps.inside(taps.given_to(layer)) as seen:
                return layer(x, ctx), seen

        x, seen = jax.checkpoint(read, policy=REMAT_POLICIES[policy])(layer, x)
        taps.report(seen)
        return x

    return run
