"""Small latent sets of random numbers, as `vdm encode` would write them."""

import numpy as np

from data_pipelines.shards.latent_writer import open_latent_writer, plan_for
from data_pipelines.shards.latents import Entry, LatentRecord, LatentSpec

LENGTH, WIDTH = 6, 8  # of prompt features
ENCODERS = {
    "vae": {"class": "AutoencoderKLWan", "digest": "a" * 64, "shift": [0.0], "scale": [1.0]},
    "text_encoder": {"class": "UMT5EncoderModel", "digest": "b" * 64},
}


def spec(frames=3, height=4, width=4, channels=4, dtype="float16", text=True, first_frame=False, encoders=ENCODERS):
    """Latents of `frames x height x width`; with prompt features, and with what the first frame gives."""
    conditions = {}
    if text:
        conditions |= {"tokens": Entry((LENGTH, WIDTH), dtype), "tokens_mask": Entry((LENGTH,), "bool")}
    if first_frame:
        conditions["concat"] = Entry((frames, height, width, channels), dtype)
        conditions["image"] = Entry((2, WIDTH), dtype, fill="last")
        conditions["vector.motion"] = Entry((), "float32")
    pixels = (4 * frames - 3, 8 * height, 8 * width)
    return LatentSpec(frames, height, width, channels, dtype, pixels, conditions, encoders)


def clip(made, k):
    """Clip number k: whose latents and prompt are functions of k alone."""
    rng = np.random.default_rng(k)
    words = 1 + k % LENGTH
    values = {
        "tokens": np.where(np.arange(LENGTH)[:, None] < words, rng.normal(size=(LENGTH, WIDTH)), 0),
        "tokens_mask": np.arange(LENGTH) < words,
        "vector.motion": np.float32(k),
    }
    latents = rng.normal(size=made.decoded_shape).astype(np.float32)
    values["concat"] = np.where(np.arange(made.frames)[:, None, None, None] < 1, latents, 0)
    values["image"] = np.tile(rng.normal(size=(1, WIDTH)), (2, 1))
    kept = {name: np.asarray(values[name]) for name in made.conditions}
    return LatentRecord(latents, kept, f"clip {k}", 8.0, f"{k}.mp4", 0.0, "train", k)


def null(made):
    """The conditions of the empty prompt."""
    values = {"tokens": np.full((LENGTH, WIDTH), 0.5), "tokens_mask": np.arange(LENGTH) < 1}
    return {name: values[name] for name in made.conditions if name in values}


def write(out, made=None, train=24, val=8, shard_bytes=256 << 20, stop_after=None, settings=None, overwrite=False):
    """Writes a set; `stop_after` shards it breaks off with a KeyboardInterrupt.  Returns the manifest."""
    made = spec() if made is None else made
    provenance = {"pipeline": "test"}
    plan = plan_for(made, {"train": train, "val": val}, provenance, settings or {}, shard_bytes)
    with open_latent_writer(out, plan, null(made), overwrite=overwrite) as writer:
        for number, part in enumerate(writer.missing()):
            if number == stop_after:
                raise KeyboardInterrupt
            first = part.start + (1000 if part.split == "val" else 0)
            writer.write(part, (clip(made, first + k) for k in range(part.stop - part.start)))
        return writer.finish()
