"""The `adapter` section of a config: what is put into the network of a run that starts from `init`, and alone trains.

    adapter = {"kind": "first_frame"}                     every frame asks the first one (I2V-Adapter)
    adapter = {"kind": "image_tokens", "tokens": 16}      a picture is read beside the text (IP-Adapter)
    adapter = {"kind": "image_levels"}                    a picture is added at the levels of a UNet (AnimateLCM)

A kind is a dataclass with the members of `Adapter`.  Low-rank pairs have a section of their own, `lora`.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from flax import nnx

from vdm_jax.adapters.frames import FirstFrameConfig
from vdm_jax.adapters.image_levels import ImageLevelsConfig
from vdm_jax.adapters.image_tokens import ImageTokensConfig
from vdm_jax.config import build_kind, to_dict

Given = dict[str, tuple[tuple[int, ...], Any]]


class Adapter(Protocol):
    """What every kind has.

    Attributes:
      tag: a part of the path of each of its parameters, and of no other.
    """

    tag: str

    def put_into(self, network: nnx.Module, rngs: nnx.Rngs) -> nnx.Module:
        """The adapted network, which computes what it did; raises ValueError where it has no place for it."""

    def begin(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of a new adapter beside weights of the base that were put in after it."""

    def given(self, frames: int, height: int, width: int) -> Given:
        """What it reads of a clip of this size beside what the base reads: condition -> (shape, dtype) without the
        batch; raises ValueError for clips that it can do nothing with."""


ADAPTERS: dict[str, type[Adapter]] = {
    "first_frame": FirstFrameConfig,
    "image_tokens": ImageTokensConfig,
    "image_levels": ImageLevelsConfig,
}


def adapter_from(section: Mapping[str, Any] | None, path: str = "config.adapter") -> Adapter | None:
    """Reads the section; None is no adapter.

    Raises:
      ValueError: an unknown kind or key, or a wrong value; names the full path.
    """
    return None if section is None else build_kind(ADAPTERS, section, path)


def adapter_to_dict(adapter: Adapter | None) -> dict[str, Any] | None:
    """Writes it as JSON types; `adapter_from` is the inverse."""
    if adapter is None:
        return None
    kind = next(kind for kind, cls in ADAPTERS.items() if type(adapter) is cls)
    return {"kind": kind, **to_dict(adapter)}
