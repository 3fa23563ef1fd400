"""From config sections to the networks of a run: `{"backbone": ..., "text": ...}`, or `{"backbone": ..., "null": ...}`.

Text features are made by an encoder that is trained with the backbone (`text`), or they come with the data, made by a
frozen encoder beforehand; then the features of the empty prompt (`null`) are held beside the backbone.

A new backbone is one entry of `BACKBONES`: its config dataclass (with `token_grid`, `forward_flops`, `reads`) and
its module.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from vdm_jax.config import build, build_kind, to_dict
from vdm_jax.models.cogvideox import CogVideoX, CogVideoXConfig
from vdm_jax.models.dit import DiT, DiTConfig
from vdm_jax.models.latte import Latte, LatteConfig
from vdm_jax.models.text import EmptyPrompt, TextConfig, TextEncoder
from vdm_jax.models.unet import UNet, UNetConfig
from vdm_jax.models.wan import Wan, WanConfig

BACKBONES: dict[str, tuple[type, type[nnx.Module]]] = {
    "dit": (DiTConfig, DiT),
    "wan": (WanConfig, Wan),
    "latte": (LatteConfig, Latte),
    "cogvideox": (CogVideoXConfig, CogVideoX),
    "unet": (UNetConfig, UNet),
}

# Fields of every config that say how the network computes, and leave what it computes alone.
HOW = ("kernel", "partition", "remat")


@dataclasses.dataclass(frozen=True)
class NetworksConfig:
    """The networks of a run.

    Attributes:
      model: a config of `BACKBONES`.
      text: the text encoder trained with it; None for an unconditional model, and where features come with the data.
      tokens: text tokens of a clip whose features come with the data; 0 otherwise.
    """

    model: DiTConfig | WanConfig | LatteConfig | CogVideoXConfig | UNetConfig
    text: TextConfig | None = None
    tokens: int = 0

    def __post_init__(self):
        if self.text is not None and self.model.text_dim != self.text.dim:
            raise ValueError(f"model.text_dim: {self.model.text_dim} must be the text encoder's dim, {self.text.dim}")
        comes = self.text is None and self.model.text_dim > 0
        if comes and self.tokens < 1:
            raise ValueError(
                f"train.tokens: {self.tokens} must be the text tokens of a clip: model.text_dim is"
                f" {self.model.text_dim}, and without a section text its features come with the data"
            )
        if self.tokens and not comes:
            why = "features are made by the section text" if self.text else "model.text_dim is 0"
            raise ValueError(f"train.tokens: {self.tokens} must be 0, {why}")

    @property
    def text_length(self) -> int:
        """Text tokens of a clip; 0 for an unconditional model."""
        return self.text.length if self.text else self.tokens

    @property
    def heads(self) -> tuple[int, ...]:
        """Every number of attention heads in the backbone."""
        heads = self.model.heads
        return tuple(sorted(set(heads))) if isinstance(heads, tuple) else (heads,)

    def make(self, vocab_size: int, rngs: nnx.Rngs) -> dict[str, nnx.Module]:
        """Builds them; `vocab_size` is the tokenizer's (0 without text)."""
        _, module = BACKBONES[kind_of(self.model)]
        networks = {"backbone": module(self.model, rngs)}
        if self.text is not None:
            networks["text"] = TextEncoder(self.text, vocab_size, rngs)
        elif self.tokens:
            networks["null"] = EmptyPrompt(self.tokens, self.model.text_dim)
        return networks

    def given(self, frames: int, height: int, width: int) -> dict[str, tuple[tuple[int, ...], Any]]:
        """What must come with a clip of this size, but for `vector`: condition -> (shape, dtype) without the batch."""
        model = self.model
        known = {
            "tokens": ((self.tokens, model.text_dim), np.float32),
            "concat": ((frames, height, width, getattr(model, "concat_channels", 0)), np.float32),
            "image": ((getattr(model, "image_tokens", 0), getattr(model, "image_dim", 0)), np.float32),
        }
        wanted = model.reads - ({"tokens"} if self.text else set())
        return {key: value for key, value in known.items() if key in wanted}


def kind_of(model: Any) -> str:
    """The name in `BACKBONES` of a config."""
    return next(kind for kind, (config, _) in BACKBONES.items() if isinstance(model, config))


def networks_from(
    model: Mapping[str, Any], text: Mapping[str, Any] | None, tokens: int = 0, path: str = "config"
) -> NetworksConfig:
    """Reads the sections `model` (with its `kind`) and `text`; `text_dim` follows the encoder unless it is given.

    Raises:
      ValueError: see `config.build` and `NetworksConfig`.
    """
    text_config = build(TextConfig, text, f"{path}.text") if text else None
    section = dict(to_dict(model))
    if text_config is not None:
        section.setdefault("text_dim", text_config.dim)
    kinds = {kind: config for kind, (config, _) in BACKBONES.items()}
    model_config = build_kind(kinds, section, f"{path}.model")
    try:
        return NetworksConfig(model_config, text_config, tokens)
    except ValueError as error:
        raise ValueError(f"{path}.{error}") from None
