"""What batches hold beside clips and captions, where a model asks for it (`data.fields`).

`FIELDS` lists them by name.  A field is one file: a frozen dataclass with the attributes of `field.Field`.  Those that
worlds know exactly and shard sets store are `stored.Stored`; the others are computed of the pixels.
"""

from collections.abc import Sequence

from data_pipelines.loading.fields.audio import Audio
from data_pipelines.loading.fields.degraded import Degraded
from data_pipelines.loading.fields.field import Field
from data_pipelines.loading.fields.first_frame import FirstFrame
from data_pipelines.loading.fields.optical_flow import OpticalFlow
from data_pipelines.loading.fields.stored import DIMS, Stored
from vdm_jax.errors import did_you_mean

FIELDS: dict[str, Field] = {name: Stored(name) for name in DIMS} | {
    field.name: field for field in (FirstFrame(), OpticalFlow(), Degraded(), Audio())
}


def fields_of(names: Sequence[str]) -> tuple[Field, ...]:
    """The fields of `data.fields`, able to run here.

    Raises:
      ValueError: an unknown name, one that comes twice, or one whose library is not installed.
    """
    for i, name in enumerate(names):
        if name not in FIELDS:
            raise ValueError(f"fields: {did_you_mean(name, FIELDS)}")
        if name in names[:i]:
            raise ValueError(f"fields: {name!r} comes twice")
        FIELDS[name].check()
    return tuple(FIELDS[name] for name in names)
