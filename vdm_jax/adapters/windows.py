"""Window attention fusion (FreeNoise, arXiv 2310.15169): a network of short clips runs on a long one.

    window i = frames [s i, s i + w):   O^i = Attention(Q^i, K^i, V^i),      O_f = mean of the O^i_f by their weights

The temporal attention of a trained network is swapped for one that looks through windows as long as the clips it was
trained on, with the places that frames had there; queries, keys and values are computed once for each frame, and so is
everything that is not temporal attention.  Parameters stay where they are.

Published code differs in what is a window's own: in the paper the attention alone, in diffusers (`whole_blocks`) both
attentions of a motion module's block with what is added between them.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from vdm_jax.adapters.splice import find, swap
from vdm_jax.attention import FULL, Policy, attend
from vdm_jax.diffusion.windows import Windows
from vdm_jax.models.dit import DiT
from vdm_jax.models.dit.blocks import Block as DiTBlock
from vdm_jax.models.unet import UNet
from vdm_jax.models.unet.temporal import TemporalTransformer
from vdm_jax.models.unet.transformer import Block as UNetBlock
from vdm_jax.nn.attention import SelfAttention
from vdm_jax.nn.path_filter import Path
from vdm_jax.nn.rotary import rotate

Array = jax.Array


class WindowAttention(SelfAttention):
    """Self-attention over frames in windows; has the parameters of the layer that it stands for.

    Args:
      base: the layer.
      windows: over the frames of tokens.
    """

    def __init__(self, base: SelfAttention, windows: Windows):
        self.qkv, self.out, self.norm = base.qkv, base.out, base.norm
        self.kernel, self.scale = base.kernel, base.scale
        self.windows = windows

    def __call__(
        self,
        x: Array,
        policy: Policy = FULL,
        rotary: Array | None = None,
        *,
        tokens: str = "GN",
        partition: str = "groups",
        length: int | None = None,
        positions: Array | None = None,
    ) -> Array:
        """Args:
          x: `[B, G, N, D]`, N frames of G points.
          policy: everything must be seen.
          rotary: `[N or more, 2, c / 2]`; it tells frames how far apart they are, which is the same in every window.
          tokens: "GN".
          partition: see `attend`.
          length: None.
          positions: `[w or more, D]`, added to what the frames of each window are projected from.

        Returns:
          An array like `x`.

        Raises:
          ValueError: causal attention or packed clips; frames that the windows do not cover.
        """
        assert tokens == "GN", "frames stand behind points"
        assert length is None, "frames of tubes are whole"
        if policy.positional or policy.q_segments is not None:
            raise ValueError("windows: the attention is causal or of packed clips; the fusion would look ahead")
        b, g, frames, _ = x.shape
        q, k, v = self._in_windows(self.qkv(x), rotary, positions)  # [B, G, H, n, w, c]
        heads, width = q.shape[2], q.shape[5]
        q, k, v = (y.swapaxes(2, 3).reshape(b, -1, heads, self.windows.size, width) for y in (q, k, v))
        out = attend(q, k, v, policy=policy, kernel=self.kernel, partition=partition, layout="BGHND", scale=self.scale)
        out = out.swapaxes(2, 3).reshape(b, g, -1, self.windows.size, heads * width)
        # The last projection is affine and shares add up to 1, so it may come after the mean, once for each frame.
        return self.out(self.windows.fuse(out, frames, axis=2))

    def _in_windows(self, qkv: Array, rotary: Array | None, positions: Array | None) -> list[Array]:
        """Queries, keys and values; before they are cut, as far as they are the same in every window."""
        if positions is not None:
            qkv = self.windows.cut(qkv, axis=2) + self._of_places(positions.astype(qkv.dtype))
        q, k = self.norm(qkv[..., 0, :], qkv[..., 1, :])
        q, k, v = (jnp.moveaxis(y, -2, 2) for y in (q, k, qkv[..., 2, :]))  # [B, G, H, N, c], or with windows
        if rotary is not None:
            rows = rotary[: q.shape[-2]]
            q, k = rotate(q, rows), rotate(k, rows)
        return [q, k, v] if positions is not None else [self.windows.cut(y, axis=3) for y in (q, k, v)]

    def _of_places(self, positions: Array) -> Array:
        """What positions add to queries, keys and values, `[w, H, 3, c]`."""
        rows = self.qkv(positions[: self.windows.size])
        return rows if self.qkv.bias is None else rows - self.qkv.bias[...].astype(rows.dtype)


class WindowBlock(UNetBlock):
    """A block of two self-attentions over frames, each in windows by itself."""

    def __init__(self, base: UNetBlock, windows: Windows):
        _take(self, base)
        self.attention = WindowAttention(base.attention, windows)
        self.second = WindowAttention(base.second, windows)

    def __call__(self, x: Array, *, positions: Array | None = None, partition: str = "groups") -> Array:
        """See `Block`; positions are those of a window."""
        for norm, attention in ((self.norm1, self.attention), (self.norm2, self.second)):
            x = x + attention(norm(x), positions=positions, partition=partition)
        return x + self.mlp(self.norm3(x))


class BlockInWindows(UNetBlock):
    """A block of which both attentions run in each window, one behind the other, before windows are fused."""

    def __init__(self, base: UNetBlock, windows: Windows):
        _take(self, base)
        self.windows = windows

    def __call__(self, x: Array, *, positions: Array | None = None, partition: str = "groups") -> Array:
        """See `Block`; positions are those of a window."""
        parts = self.windows.cut(x, axis=2)  # [B, G, n, w, C]
        shape = parts.shape
        places = None if positions is None else positions[: self.windows.size]
        parts = self.attend_twice(parts.reshape(len(x), -1, *shape[3:]), positions=places, partition=partition)
        x = self.windows.fuse(parts.reshape(shape), x.shape[2], axis=2)
        return x + self.mlp(self.norm3(x))


def window_attention(network: nnx.Module, windows: Windows, frames: int, *, whole_blocks: bool = False) -> nnx.Module:
    """Swaps the temporal attention of a network for one that looks through windows, in place.

    Args:
      network: a factorised `DiT`, whose places in time are rotary or none, or a `UNet` with temporal transformers.
      windows: as long as the clips that it was trained on; in frames of the clip.
      frames: N, of the clips that it will run on.
      whole_blocks: see the top of this file; a UNet only.

    Returns:
      The network.

    Raises:
      ValueError: windows that do not cover the clip; a network without temporal attention, with causal one, or one
        that is told places in time before it, where no window could tell others.
    """
    windows.starts(frames)
    match network:
        case DiT():
            if whole_blocks:
                raise ValueError("whole_blocks: True is of the blocks of a UNet, the network is a DiT")
            paths, windows = _of_dit(network), windows.scaled(network.config.patch[0])
            _each(network, paths, lambda layer: WindowAttention(layer, windows))
        case UNet():
            make = BlockInWindows if whole_blocks else WindowBlock
            _each(network, _of_unet(network, windows), lambda block: make(block, windows))
            # There are places in windows for any number of frames now.
            network.config = dataclasses.replace(network.config, max_frames=max(frames, network.config.max_frames))
        case _:
            raise ValueError(f"windows: {type(network).__name__} has no temporal attention, it is over all tokens")
    return network


def _of_dit(network: DiT) -> list[Path]:
    """The temporal attention of a DiT."""
    cfg = network.config
    if cfg.attention != "factorised":
        raise ValueError(
            f"windows: a DiT with attention={cfg.attention!r} has no temporal attention ('factorised' has)"
        )
    if cfg.causal:
        raise ValueError("windows: the DiT's temporal attention is causal; the fusion would look ahead")
    if cfg.positions != "none":
        raise ValueError(
            f"windows: a DiT with positions={cfg.positions!r} is told where a frame is before its temporal attention;"
            " only rotary places (positions='none') can be those in a window"
        )
    return [(*path, "attention") for path in find(network, DiTBlock) if path[-1] == "temporal"]


def _of_unet(network: UNet, windows: Windows) -> list[Path]:
    """The blocks of a UNet's temporal transformers."""
    temporal, longest = network.config.temporal, network.config.max_frames
    if temporal not in ("convolution", "motion"):
        why = "has no temporal attention" if temporal == "none" else "is told where a frame is before it"
        raise ValueError(f"windows: a UNet with temporal={temporal!r} {why} ('convolution' and 'motion' are not)")
    if temporal == "motion" and windows.size > longest:
        raise ValueError(f"size: {windows.size} is more than the {longest} frames that there are positions for")
    return [(*path, "blocks") for path in find(network, TemporalTransformer)]


def _each(network: nnx.Module, paths: list[Path], make: Callable[[nnx.Module], nnx.Module]) -> None:
    for path in paths:
        swap(network, path, make)


def _take(module: nnx.Module, base: nnx.Module) -> None:
    """Gives a module the attributes of the one that it stands for."""
    for name in ("norm1", "attention", "norm2", "second", "norm3", "mlp"):
        setattr(module, name, getattr(base, name))
