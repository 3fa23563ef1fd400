"""Small sets of pixels whose clips say by themselves which frame of which clip they are."""

import json

import numpy as np

from data_pipelines.shards.manifest import ClipSpec
from data_pipelines.shards.schema import ClipRecord, pack_pixels
from data_pipelines.shards.writer import open_writer


def pixels(index, frames, height, width):
    """Clip number `index`: red counts frames, green clips; blue is a ramp from left to right."""
    video = np.zeros((frames, height, width, 3), np.uint8)
    video[..., 0] = np.arange(frames)[:, None, None]
    video[..., 1] = index
    video[..., 2] = np.linspace(0, 255, width).astype(np.uint8)
    return video


def write(out, clips=12, frames=8, height=16, width=16, rates=(8.0,), codec="raw", labels=None, video=pixels):
    """Writes a set; clip i has rate `rates[i % len(rates)]` and the caption `NAME i moves left`."""
    with open_writer(out, ClipSpec(frames, height, width, codec)) as writer:
        for split, count in (("train", clips), ("val", 2)):
            for i in range(count):
                fps = rates[i % len(rates)]
                writer.add(
                    ClipRecord(
                        video=pack_pixels(video(i, frames, height, width), codec, fps),
                        codec=codec,
                        caption=f"{out.name} {i} moves left",
                        fps=fps,
                        frames=frames,
                        height=height,
                        width=width,
                        source=out.name,
                        start=0.0,
                        split=split,
                        index=i,
                        labels=json.dumps(labels or {}),
                    )
                )
        writer.finish({"pipeline": "test"}, {})
    return str(out)
