"""The tiny networks of every family that certificates are made of; a further family is one line."""

from vdm_jax.interop.cases import autoencoders, cogvideox, encoders, latte, unet, wan
from vdm_jax.interop.parity import Case

CASES: tuple[Case, ...] = (
    *autoencoders.CASES,
    *cogvideox.CASES,
    *encoders.CASES,
    *latte.CASES,
    *unet.CASES,
    *wan.CASES,
)
