"""From config sections to the networks of a run: `{"backbone": ..., "text": ...}`.

A new backbone is one entry of `BACKBONES`: its config dataclass (with `token_grid`, `forward_flops`, `reads`) and
its module.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax import nnx

from vdm_jax.config import build, build_kind, to_dict
from vdm_jax.models.cogvideox import CogVideoX, CogVideoXConfig
from vdm_jax.models.dit import DiT, DiTConfig
from vdm_jax.models.latte import Latte, LatteConfig
from vdm_jax.models.text import TextConfig, TextEncoder
from vdm_jax.models.unet import UNet, UNetConfig
from vdm_jax.models.wan import Wan, WanConfig

BACKBONES: dict[str, tuple[type, type[nnx.Module]]] = {
    "dit": (DiTConfig, DiT),
    "wan": (WanConfig, Wan),
    "latte": (LatteConfig, Latte),
    "cogvideox": (CogVideoXConfig, CogVideoX),
    "unet": (UNetConfig, UNet),
}


@dataclasses.dataclass(frozen=True)
class NetworksConfig:
    """The networks of a run.

    Attributes:
      model: a config of `BACKBONES`.
      text: the text encoder trained with it; None for an unconditional model.
    """

    model: DiTConfig | WanConfig | LatteConfig | CogVideoXConfig | UNetConfig
    text: TextConfig | None = None

    def __post_init__(self):
        width = self.text.dim if self.text else 0
        if self.model.text_dim != width:
            raise ValueError(f"model.text_dim: {self.model.text_dim} must be the text encoder's dim, {width}")

    def make(self, vocab_size: int, rngs: nnx.Rngs) -> dict[str, nnx.Module]:
        """Builds them; `vocab_size` is the tokenizer's (0 without text)."""
        _, module = next(pair for pair in BACKBONES.values() if isinstance(self.model, pair[0]))
        networks = {"backbone": module(self.model, rngs)}
        if self.text is not None:
            networks["text"] = TextEncoder(self.text, vocab_size, rngs)
        return networks


def networks_from(model: Mapping[str, Any], text: Mapping[str, Any] | None, path: str = "config") -> NetworksConfig:
    """Reads the sections `model` (with its `kind`) and `text`; `text_dim` follows the encoder unless it is given.

    Raises:
      ValueError: see `config.build`.
    """
    text_config = build(TextConfig, text, f"{path}.text") if text else None
    section = dict(to_dict(model))
    if text_config is not None:
        section.setdefault("text_dim", text_config.dim)
    kinds = {kind: config for kind, (config, _) in BACKBONES.items()}
    model_config = build_kind(kinds, section, f"{path}.model")
    try:
        return NetworksConfig(model_config, text_config)
    except ValueError as error:
        raise ValueError(f"{path}.{error}") from None
