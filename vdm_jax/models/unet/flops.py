"""Multiply-adds of a UNet times two: matrix products, convolutions and attention, nothing else.

At a level of P positions (T frames of S pixels) and C channels, for L text tokens of width E:

    residual block    18 P C (C_in + C), its shortcut 2 P C_in C
    over time         6 P C^2 a convolution of three frames
    block             attention projections 8 P C^2 each, of text 4 P C^2 + 4 L E C; the gated MLP 24 P C^2
    ends              4 P C^2 a transformer
    scores, values    4 P C for each key a position sees: S, T or L of them

The time embedding and its projections are left out: they are once a frame.
"""

import dataclasses
from typing import Protocol

from vdm_jax.models.unet.place import Place

ENTRY_HEADS = 8  # of the transformer over time that `convolution` begins with


class Trunk(Protocol):
    """What is read of a `UNetConfig`, which calls this and so cannot be imported here."""

    channels: int
    in_channels: int
    widths: tuple[int, ...]
    heads: tuple[int, ...]
    text_dim: int
    temporal: str

    def down(self, level: int) -> list[tuple[int, Place]]: ...

    def mid(self) -> list[tuple[int, Place]]: ...

    def up(self, level: int) -> list[tuple[int, Place]]: ...


@dataclasses.dataclass(frozen=True)
class Size:
    """A clip at one level: frames, pixels of a frame, text tokens and their width."""

    frames: int
    pixels: int
    text: int
    text_dim: int

    @property
    def positions(self) -> int:
        return self.frames * self.pixels


def forward_flops(cfg: Trunk, frames: int, height: int, width: int, text: int) -> tuple[float, float]:
    """One clip's forward pass.

    Args:
      cfg: the network.
      frames, height, width: of the clip.
      text: tokens of the prompt.

    Returns:
      All of it, and the part that is scores and values.
    """
    sizes = []
    for _ in cfg.widths:
        sizes.append(Size(frames, height * width, text, cfg.text_dim))
        height, width = -(-height // 2), -(-width // 2)
    last = len(cfg.widths) - 1
    work = [_layer(cfg, sizes[-1], *at) for at in cfg.mid()]
    for level, size in enumerate(sizes):
        work += [_layer(cfg, size, *at) for at in (*cfg.down(level), *cfg.up(level))]
        wide = cfg.widths[level]
        if level < last:  # down to the next level, and up from it at this one's size
            work.append((18.0 * wide * wide * sizes[level + 1].positions, 0.0))
            work.append((18.0 * cfg.widths[level + 1] ** 2 * size.positions, 0.0))
    ends = 18.0 * sizes[0].positions * cfg.widths[0] * (cfg.in_channels + cfg.channels)
    work.append((ends, 0.0))
    if cfg.temporal == "convolution":
        inner = ENTRY_HEADS * (cfg.widths[0] // cfg.heads[0])
        work.append(_temporal(sizes[0], cfg.widths[0], inner, 1))
    return sum(total for total, _ in work), sum(seen for _, seen in work)


def _layer(cfg: Trunk, size: Size, in_channels: int, place: Place) -> tuple[float, float]:
    p, c, square = size.positions, place.channels, 2.0 * size.positions * place.channels**2
    work = [(18.0 * p * c * (in_channels + c) + (2.0 * p * in_channels * c if in_channels != c else 0.0), 0.0)]
    convs = {"convolution": 4, "mixed": 2}.get(cfg.temporal, 0)
    work.append((convs * 3 * square, 0.0))
    if place.depth:
        work.append(_block(size, c, place.depth, size.pixels, size.text))
        work.append((2 * square, 0.0))
        if cfg.temporal == "mixed":
            mixed = _block(size, c, place.depth, size.frames, size.text)
            work += [mixed, (place.depth * 12 * square, 0.0)]
        if cfg.temporal == "convolution":
            work.append(_temporal(size, c, c, 1))
    if place.motion_depth:
        work.append(_temporal(size, c, c, place.motion_depth))
    return sum(total for total, _ in work), sum(seen for _, seen in work)


def _block(size: Size, c: int, depth: int, own: int, text: int) -> tuple[float, float]:
    """Blocks whose second attention reads `text` tokens."""
    seen = 4.0 * size.positions * c * (own + text)
    products = size.positions * c * c * (8 + 4 + 24) + 4.0 * text * size.text_dim * c
    return depth * (products + seen), depth * seen


def _temporal(size: Size, c: int, inner: int, depth: int) -> tuple[float, float]:
    """A transformer over time, of two self-attentions a block."""
    seen = 8.0 * size.positions * inner * size.frames
    products = size.positions * inner * inner * (8 + 8 + 24)
    return depth * (products + seen) + 4.0 * size.positions * c * inner, depth * seen
