"""Every published class that can be read and written; a further one is one line."""

from vdm_jax.interop.family import Family
from vdm_jax.interop.latte import LATTE
from vdm_jax.interop.wan import WAN

_ALL: tuple[Family, ...] = (LATTE, WAN)

FAMILIES: dict[str, Family] = {family.published: family for family in _ALL}
