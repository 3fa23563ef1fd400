"""Every published class that can be read and written; a further one is one line."""

from vdm_jax.interop.family import Family

_ALL: tuple[Family, ...] = ()

FAMILIES: dict[str, Family] = {family.published: family for family in _ALL}
