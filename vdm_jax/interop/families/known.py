"""Every class that can be read and written, the published ones and the project's own; a further one is one line."""

from vdm_jax.interop.families.autoencoders_cogvideox import AUTOENCODER_COGVIDEOX
from vdm_jax.interop.families.autoencoders_kl import AUTOENCODER_KL, AUTOENCODER_TEMPORAL_DECODER
from vdm_jax.interop.families.autoencoders_wan import AUTOENCODER_WAN
from vdm_jax.interop.families.cogvideox import COGVIDEOX
from vdm_jax.interop.families.controlnet import CONTROLNET
from vdm_jax.interop.families.dit import DIT, TEXT
from vdm_jax.interop.families.encoders import ENCODERS
from vdm_jax.interop.families.family import Family
from vdm_jax.interop.families.latte import LATTE
from vdm_jax.interop.families.unet import UNET, UNET_2D, UNET_3D, UNET_SPATIO_TEMPORAL
from vdm_jax.interop.families.unet_motion import MOTION_ADAPTER, UNET_MOTION
from vdm_jax.interop.families.wan import WAN

_ALL: tuple[Family, ...] = (
    AUTOENCODER_KL,
    AUTOENCODER_TEMPORAL_DECODER,
    AUTOENCODER_WAN,
    AUTOENCODER_COGVIDEOX,
    COGVIDEOX,
    CONTROLNET,
    DIT,
    *ENCODERS,
    LATTE,
    MOTION_ADAPTER,
    TEXT,
    UNET,
    UNET_2D,
    UNET_3D,
    UNET_MOTION,
    UNET_SPATIO_TEMPORAL,
    WAN,
)

FAMILIES: dict[str, Family] = {family.published: family for family in _ALL}
