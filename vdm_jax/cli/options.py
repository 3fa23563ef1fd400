"""What several verbs share: how a size is written, and the figures that describe a shard set."""

import argparse

from data_pipelines.shards.latents import LatentSpec
from data_pipelines.shards.manifest import Manifest
from vdm_jax.media.figures import Figure


def parse_size(text: str) -> tuple[int, int]:
    """`16 -> (16, 16)`, `16x24 -> (16, 24)`: height and width in pixels.

    Raises:
      argparse.ArgumentTypeError: it is neither.
    """
    height, times, width = text.partition("x")
    try:
        return int(height), int(width if times else height)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of pixels nor HEIGHTxWIDTH") from None


def set_figures(manifest: Manifest) -> list[Figure]:
    """Counts, shapes, codec, dropped sources and digest of a shard set."""
    clip = manifest.clip
    shards = [shard for part in manifest.splits.values() for shard in part]
    return [
        *(Figure(f"{split}_clips", manifest.records(split)) for split in manifest.splits),
        Figure("shape", "x".join(map(str, clip.decoded_shape)), "T x H x W x C"),
        Figure("codec", f"{clip.codec} {clip.dtype}" if isinstance(clip, LatentSpec) else clip.codec),
        Figure("shards", len(shards)),
        Figure("size", round(sum(shard.bytes for shard in shards) / 1e6, 3), "MB"),
        Figure("dropped_sources", len(manifest.dropped)),
        *(Figure(f"dropped_{reason}", count) for reason, count in manifest.reasons().items()),
        Figure("digest", manifest.digest()),
    ]
