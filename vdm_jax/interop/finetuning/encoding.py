"""Clips and captions as what an imported network is trained on, by the import's own frozen encoders.

    encoder = open_encoder(run, (49, 480, 720), batch=4, mesh=mesh)       # checks sizes; reads no weights
    encoder.load()
    encoded = encoder.encode(clips, captions, fps)                        # latents, conditions by name, on the host

Latents are the posterior's mode, shifted and scaled as the denoiser sees them.  One program encodes a batch of clips,
with all that is made of their pixels; it is compiled once.  See `training_conditions` for what each family takes.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vdm_jax.interop import imported
from vdm_jax.interop.component import nested
from vdm_jax.interop.files.tensors import read_json
from vdm_jax.interop.finetuning.conditions import Clips, Needs, needs_of
from vdm_jax.interop.finetuning.origin import digest_of
from vdm_jax.interop.finetuning.prompts import PromptEncoder
from vdm_jax.interop.pipelines.opened import Opened, Part, parts_of
from vdm_jax.models.networks import BACKBONES
from vdm_jax.models.published_tokenizer import check_match, read_tokenizer
from vdm_jax.models.tokenizer import Tokenizer
from vdm_jax.sharding import check_batch, place_batch

VAE, TEXT = "vae", "text_encoder"
TOKENIZER = "tokenizer"


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """A batch of clips, on the host.

    Attributes:
      latents: `[N, T, H, W, C]` float32.
      conditions: name -> `[N, ...]` float32 or bool; `vector.<name>` is `[N]`.
      cut: caption -> the end of it that was over the length limit.
    """

    latents: np.ndarray
    conditions: dict[str, np.ndarray]
    cut: Mapping[str, str]


class ClipEncoder:
    """The encoders of an import; made by `open_encoder`.

    Attributes:
      needs: what the network of the import is trained on.
      latent_shape: (T, H, W, C) of one clip's latents.
    """

    def __init__(self, opened: Opened, needs: Needs, pixels: tuple[int, int, int], batch: int):
        self.needs = needs
        self._opened, self._pixels, self._batch = opened, pixels, batch
        self._text: PromptEncoder | None = None
        self._weights: dict[str, Any] = {}
        self._tokenizer = self._read_tokenizer()
        config = opened.part(VAE).config
        frames = config.grid.latent_frames(pixels[0])
        frames += needs.front(frames)
        self.latent_shape = (frames, pixels[1] // config.grid.side, pixels[2] // config.grid.side,
                             config.latent_channels)  # fmt: skip
        self._compiled = opened.compiled(self._run)

    @property
    def reads_text(self) -> bool:
        """Whether captions are encoded."""
        return self.needs.reading is not None and TEXT in self._opened.parts

    def load(self) -> None:
        """Reads all weights onto the mesh.

        Raises:
          ValueError: a tokenizer that cannot be read, or that of another encoder.
          RunError: damaged weights.
        """
        if self.reads_text:
            self._text = self._opened.prompt_encoder(self.needs.reading, self.needs.length, self._batch)
        run, mesh = self._opened.run, self._opened.mesh
        stored = {name: _stored_name(self._opened, name) for name in (VAE, *self.needs.encoders)}
        self._weights = {name: imported.open_imported(run, of, mesh)[of].params for name, of in stored.items()}

    def encode(self, clips: np.ndarray, captions: Sequence[str], fps: Sequence[float]) -> Encoded:
        """Encodes clips; fewer than the batch are filled up.

        Args:
          clips: uint8 `[N, T, H, W, 3]`, N at most the batch.
          captions: of each.
          fps: of each.
        """
        count = len(clips)
        clips = clips[np.minimum(np.arange(self._batch), count - 1)]
        if self._opened.mesh is not None:
            clips = place_batch({"clips": clips}, self._opened.mesh)["clips"]
        made = self._compiled(self._weights, clips)  # on the device while the host reads captions
        found, cut = self._captions(captions)
        latents, given = jax.device_get(made)
        found |= {name: np.asarray(value)[:count] for name, value in given.items()}
        numbers = [self.needs.vector(each) for each in fps]
        found |= {f"vector.{name}": np.float32([each[name] for each in numbers]) for name in numbers[0]}
        if "tokens" in found and "tokens_mask" not in found:
            found["tokens_mask"] = np.ones(found["tokens"].shape[:2], bool)
        return Encoded(np.asarray(latents)[:count], found, cut)

    def null(self) -> dict[str, np.ndarray]:
        """The conditions of no prompt, `tokens [L, D]` and `tokens_mask [L]`; {} where nothing reads tokens."""
        if self.reads_text:
            found, _ = self._captions([""])
        else:
            shapes = {name: leaf for name, leaf in self.shapes().items() if name.startswith("tokens")}
            found = {name: np.zeros((1, *leaf.shape), leaf.dtype) for name, leaf in shapes.items()}
            found |= {name: ~value for name, value in found.items() if value.dtype == bool}
        return {name: value[0] for name, value in found.items()}

    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Name -> shape and dtype of one clip's conditions."""
        like = jax.ShapeDtypeStruct((1, *self._pixels, 3), np.uint8)
        parts = {name: self._opened.part(name) for name in (VAE, *self.needs.encoders)}
        _, given = jax.eval_shape(self._run, {name: _abstract(part) for name, part in parts.items()}, like)
        found = {name: jax.ShapeDtypeStruct(leaf.shape[1:], np.float32) for name, leaf in given.items()}
        found |= {f"vector.{name}": jax.ShapeDtypeStruct((), np.float32) for name in self.needs.vector(1.0)}
        if self._tokenizer is not None:
            found["tokens"] = jax.ShapeDtypeStruct(
                (self._tokenizer.length, self._opened.part(TEXT).config.dim), np.float32
            )
        if "tokens" in found:
            found["tokens_mask"] = jax.ShapeDtypeStruct(found["tokens"].shape[:1], np.bool_)
        return found

    def described(self) -> dict[str, dict[str, Any]]:
        """Component -> its class, the digest of its weights, and how it is used; what training compares."""
        names = {name: _stored_name(self._opened, name) for name in (VAE, *self.needs.encoders)}
        if self.reads_text:
            names[TEXT] = TEXT
        records = imported.records_of(self._opened.run)
        found = {
            name: {"class": records[stored]["class"], "digest": digest_of(self._opened.run, stored)}
            for name, stored in names.items()
        }
        scale = self._opened.part(VAE).config.scale
        found[VAE] |= {"shift": list(scale.shift), "scale": list(scale.scale), "latents": "mode"}
        if self._tokenizer is not None:
            found[TEXT] |= {"reading": self.needs.reading.name, "length": self._tokenizer.length}
            found[TEXT] |= {"tokenizer": self._tokenizer.digest}
        return found

    def _read_tokenizer(self) -> Tokenizer | None:
        if not self.reads_text:
            return None
        tokenizer = read_tokenizer(self._opened.run / imported.PUBLISHED / TOKENIZER, self.needs.length)
        check_match(tokenizer, self._opened.part(TEXT).config)
        return tokenizer

    def _captions(self, captions: Sequence[str]) -> tuple[dict[str, np.ndarray], Mapping[str, str]]:
        if self._text is None:
            return {}, {}
        self._text.cut.clear()
        made = self._text.encode(captions)
        found = {"tokens": np.asarray(made["tokens"], np.float32), "tokens_mask": made["tokens_mask"]}
        return found, dict(self._text.cut)

    def _run(self, weights: Mapping[str, Any], clips: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        parts = {name: self._opened.part(name) for name in weights}
        networks = {name: part.merge(weights[name]) for name, part in parts.items()}
        pixels = clips.astype(jnp.float32) / 127.5 - 1.0
        dtypes = {name: part.dtype for name, part in parts.items()}
        plain = Clips(networks, pixels, jnp.zeros(()), dtypes)
        latents = networks[VAE].config.scale.normalise(plain.encoded(pixels))
        given = self.needs.given(dataclasses.replace(plain, latents=latents))
        copies = self.needs.front(latents.shape[1])
        front = functools.partial(_in_front, copies=copies)
        return front(latents), {name: front(x) if name == "concat" else x for name, x in given.items()}


def _abstract(part: Part) -> dict[str, Any]:
    """Shapes of a network's weights, nested as they are."""
    shapes = part.family.shapes(part.config)
    return nested({path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in shapes.items()})


def _in_front(latents: jax.Array, copies: int) -> jax.Array:
    """The clip with its first latent frame repeated in front."""
    return jnp.concatenate([latents[:, :1]] * copies + [latents], axis=1)


def open_encoder(run: Path, pixels: tuple[int, int, int], batch: int, mesh: Mesh | None = None) -> ClipEncoder:
    """Opens the encoders of an import for clips of one size.

    Args:
      run: directory that `vdm import` made, with an autoencoder.
      pixels: (T, H, W) of the clips.
      batch: clips encoded at once.
      mesh: where weights and clips go; None is one device.

    Raises:
      ValueError: no imported run, one without an autoencoder or with a network whose conditions are not known, a size
        that the autoencoder or the network does not take, with the nearest that it does.
      RunError: the record is damaged.
    """
    opened = _opened(run, mesh)
    if mesh is not None:
        check_batch(mesh, batch)
    elif batch < 1:
        raise ValueError(f"batch: {batch} must be 1 or more")
    denoiser = _denoiser(opened)
    needs = needs_of(None if denoiser is None else denoiser.config)
    if missing := [name for name in needs.encoders if name not in opened.parts]:
        raise ValueError(f"{run}: lacks {', '.join(missing)}, which its network reads features of")
    opened.part(VAE).config.grid.check_clip((1, *pixels, 3))
    encoder = ClipEncoder(opened, needs, pixels, batch)
    if denoiser is not None:
        try:
            denoiser.config.token_grid(*encoder.latent_shape[:3])
        except ValueError as error:
            raise ValueError(f"latents of {'x'.join(map(str, pixels))} clips: {error}") from None
    return encoder


def _opened(run: Path, mesh: Mesh | None) -> Opened:
    """The parts of an import with the autoencoder under the name `vae`, also where it came alone."""
    parts = parts_of(run)
    names = [name for name in parts if _stored_autoencoder(parts[name])]
    if not names:
        has = ", ".join(f"{name} ({part.family.published})" for name, part in parts.items())
        raise ValueError(f"{run}: holds no autoencoder, which encodes the clips; it has: {has}")
    index = run / imported.PUBLISHED / imported.INDEX
    said = read_json(index) if index.is_file() else {}
    return Opened(run, said, {**parts, VAE: parts[names[0]]}, mesh)


def _denoiser(opened: Opened) -> Part | None:
    """The network of an import that can be trained; of two, which read the same, the first."""
    configs = tuple(config for config, _ in BACKBONES.values())
    return next((part for part in opened.parts.values() if isinstance(part.config, configs)), None)


def _stored_autoencoder(part: Part) -> bool:
    return hasattr(part.config, "grid") and hasattr(part.config, "scale")


def _stored_name(opened: Opened, name: str) -> str:
    """Name of a component in the record: an autoencoder that came alone has another one there."""
    records = imported.records_of(opened.run)
    return name if name in records else next(iter(records))
