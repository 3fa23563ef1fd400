"""What `vdm inspect` says of a latent set: what is stored, by whose encoders, and whether its numbers look right."""

import numpy as np

from data_pipelines.shards.latents import LatentSpec
from data_pipelines.shards.reader import ClipSource
from vdm_jax.media.figures import Figure
from vdm_jax.media.grid import spread

LOOKED_AT = 64  # clips whose statistics are taken
_BRIGHTNESS = 42.0  # levels of a picture for one standard deviation: three of them fill it


def latent_figures(spec: LatentSpec, sources: dict[str, ClipSource]) -> list[Figure]:
    """Conditions, encoders, and mean and deviation of latents and conditions over some clips of all splits."""
    figures = [
        Figure("pixels", "x".join(map(str, spec.pixels)), "T x H x W"),
        *(Figure(f"{name}/class", held.get("class")) for name, held in spec.encoders.items()),
        *(Figure(f"{name}/digest", held.get("digest")) for name, held in spec.encoders.items()),
        Figure("null_features", bool(spec.null)),
    ]
    items = [
        source[index] for source in sources.values() for index in spread(len(source), max(1, LOOKED_AT // len(sources)))
    ]
    latents = np.stack([item["video"] for item in items]).astype(np.float32)
    finite = bool(np.isfinite(latents).all())
    figures += [
        Figure("latents/mean", float(latents.mean()), n=len(items)),
        Figure("latents/std", float(latents.std()), n=len(items)),
        Figure("latents/finite", finite, n=len(items), ok=finite),
    ]
    for name, entry in spec.conditions.items():
        rows = [len(item["conditions"][name]) for item in items] if entry.shape else [1]
        shape = "x".join(map(str, entry.shape)) or "one number"
        figures.append(Figure(f"{name}/stored", f"{shape} {entry.dtype}, {np.mean(rows):.1f} rows a clip"))
    return figures


def as_picture(latents: np.ndarray) -> np.ndarray:
    """Three channels as colours: `[T, h, w, C] -> uint8 [T, h, w, 3]`, grey where latents are zero."""
    shown = latents[..., np.arange(3) % latents.shape[-1]].astype(np.float32)
    return np.clip(127.5 + _BRIGHTNESS * np.nan_to_num(shown), 0, 255).astype(np.uint8)
