"""The clips that `tools/bench_data` loads, three times: as a shard set, as a folder of files, and as WebDataset tars.

All three hold the same bytes of each clip.  Pictures are a texture that a camera pans over: they cost an encoder and a
decoder what footage does, which flat shapes do not.
"""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.data_material import Material
from data_pipelines.loading.settings import DataConfig
from data_pipelines.shards.latent_writer import open_latent_writer, plan_for
from data_pipelines.shards.latents import LatentRecord, LatentSpec
from data_pipelines.shards.manifest import ClipSpec
from data_pipelines.shards.schema import ClipRecord, pack_pixels
from data_pipelines.shards.writer import open_writer

FPS = 24.0
IN_A_TAR = 64


def config_of(material: Material, shards: Path) -> DataConfig:
    """How our loader reads it."""
    more = {} if material.whole else {"resize": "cover", "crop": "random", "random_start": True}
    return DataConfig(str(shards), *material.taken, cache_megabytes=0, **more)


def write(material: Material, folder: Path) -> None:
    """Writes `folder/{shards,files,tars}`."""
    payloads = list(_payloads(material))
    records = [payloads[i % len(payloads)] for i in range(material.clips)]
    _write_shards(material, folder / "shards", records)
    (folder / "files").mkdir()
    for i, payload in enumerate(records):
        (folder / "files" / f"{i:06d}.{material.suffix}").write_bytes(payload)
    (folder / "tars").mkdir()
    for first in range(0, len(records), IN_A_TAR):
        with tarfile.open(folder / "tars" / f"{first // IN_A_TAR:06d}.tar", "w") as tar:
            for i, payload in enumerate(records[first : first + IN_A_TAR], first):
                for suffix, data in ((material.suffix, payload), ("json", json.dumps({"fps": FPS}).encode())):
                    member = tarfile.TarInfo(f"{i:06d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def _payloads(material: Material) -> Iterator[bytes]:
    rng = np.random.default_rng(0)
    for _ in range(material.distinct):
        if material.codec == "latents":
            yield rng.standard_normal(material.stored).astype(np.float16).tobytes()
        else:
            yield pack_pixels(panned(rng, *material.stored[:3]), material.codec, FPS, crf=23)


def panned(rng: np.random.Generator, frames: int, height: int, width: int) -> np.ndarray:
    """A camera that pans over a texture of several scales: uint8 `[T, H, W, 3]`."""
    texture = np.zeros((height + 2 * frames, width + 3 * frames, 3), np.float32)
    for cell in (64, 16, 4):
        rough = rng.random((texture.shape[0] // cell + 2, texture.shape[1] // cell + 2, 3), np.float32)
        fine = np.repeat(np.repeat(rough, cell, 0), cell, 1)[: texture.shape[0], : texture.shape[1]]
        texture += fine * (cell / 84)
    texture = np.uint8(255 * texture / texture.max())
    return np.stack([texture[2 * t : 2 * t + height, 3 * t : 3 * t + width] for t in range(frames)])


def _write_shards(material: Material, out: Path, payloads: list[bytes]) -> None:
    frames, height, width, channels = material.stored
    rest = {"caption": "", "fps": FPS, "source": "bench", "start": 0.0, "split": "train"}
    if material.codec == "latents":
        spec = LatentSpec(frames, height, width, channels, "float16", (frames, 8 * height, 8 * width))
        plan = plan_for(spec, {"train": len(payloads)}, {"pipeline": "bench"}, {})
        with open_latent_writer(out, plan) as writer:
            for part in writer.missing():
                clips = (
                    np.frombuffer(p, np.float16).reshape(material.stored) for p in payloads[part.start : part.stop]
                )
                writer.write(part, (LatentRecord(clip, {}, index=0, **rest) for clip in clips))
            writer.finish()
        return
    sizes = {"frames": frames, "height": height, "width": width, "codec": material.codec}
    with open_writer(out, ClipSpec(**sizes)) as writer:
        for payload in payloads:
            writer.add(ClipRecord(payload, index=0, **sizes, **rest))
        writer.finish({"pipeline": "bench"}, {})
