"""Noise sources by name: sections `noise` of `objective` and `sample` in a config, `{"kind": "rescheduled", ...}`."""

from collections.abc import Mapping
from typing import Any

from vdm_jax.config import build_kind
from vdm_jax.sampling.noise.progressive import Progressive
from vdm_jax.sampling.noise.rescheduled import Rescheduled
from vdm_jax.sampling.noise.source import INDEPENDENT, Independent, NoiseSource
from vdm_jax.sampling.noise.warped import Precomputed, Warped

NOISES: dict[str, type] = {
    "independent": Independent,
    "rescheduled": Rescheduled,
    "progressive": Progressive,
    "warped": Warped,
    "precomputed": Precomputed,
}


def noise_from(section: Mapping[str, Any] | None, path: str) -> NoiseSource:
    """Builds a noise source from a section with a `kind`; None is plain noise.

    Raises:
      ValueError: an unknown kind or key, or a wrong value.
    """
    return INDEPENDENT if section is None else build_kind(NOISES, section, path)
