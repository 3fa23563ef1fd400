"""Every layout of authors' files that is known, of one network and of whole pipelines; a further one is one line."""

from collections.abc import Mapping
from pathlib import Path

from vdm_jax.errors import did_you_mean
from vdm_jax.interop.files.tensors import SUFFIX, Stored, read_header, tensors_of
from vdm_jax.interop.originals.animatediff import MOTION_MODULES
from vdm_jax.interop.originals.latent_diffusion import AUTOENCODER
from vdm_jax.interop.originals.layout import Original, Recognised, recognise
from vdm_jax.interop.originals.pickled import SUFFIXES, read_pickled
from vdm_jax.interop.originals.svd import SVD, SVD_AUTOENCODER, SVD_IMAGE_ENCODER, SVD_UNET
from vdm_jax.interop.originals.videocrafter import VIDEOCRAFTER, VIDEOCRAFTER_TEXT, VIDEOCRAFTER_UNET
from vdm_jax.interop.originals.wan import WAN_22_AUTOENCODER, WAN_AUTOENCODER, WAN_TEXT, WAN_TRANSFORMER
from vdm_jax.interop.originals.whole import Whole

LAYOUTS: tuple[Original, ...] = (
    MOTION_MODULES,
    SVD_UNET,
    SVD_AUTOENCODER,
    SVD_IMAGE_ENCODER,
    VIDEOCRAFTER_UNET,
    VIDEOCRAFTER_TEXT,
    AUTOENCODER,
    WAN_22_AUTOENCODER,
    WAN_AUTOENCODER,
    WAN_TEXT,
    WAN_TRANSFORMER,
)
WHOLES: tuple[Whole, ...] = (SVD, VIDEOCRAFTER)
# A part of a name that only the files of one model have -> why its network is not there.
REFUSED = {
    ".relative_position_k.": "VideoCrafter1: its transformers over time know how far frames are apart, and no UNet here"
    " has that; VideoCrafter2's do not",
    ".to_k_ip.": "VideoCrafter1 of pictures: its UNet also reads a picture as tokens, which no UNet here does",
}


def read_original(path: Path) -> Mapping[str, Stored]:
    """The tensors of one file, or of a folder of several safetensors, by name.

    Raises:
      ValueError: a file of another kind.
      RunError: a file is cut off or damaged.
    """
    if path.is_dir():
        return tensors_of(path)
    if path.suffix not in (SUFFIX, *SUFFIXES):
        raise ValueError(f"{path}: suffix: {did_you_mean(path.suffix, (SUFFIX, *SUFFIXES))}")
    return read_header(path) if path.suffix == SUFFIX else read_pickled(path)


def open_original(path: Path) -> Recognised:
    """The one network, or the first of several, that the authors of a model published as a file or a folder.

    Raises:
      ValueError, RunError: see `read_original` and `recognised`.
    """
    return recognised(read_original(path), path)


def whole_of(found: Mapping[str, Stored]) -> Whole | None:
    """The pipeline all of whose networks are among these tensors, or None."""
    return next((whole for whole in WHOLES if whole.fits(found)), None)


def recognised(found: Mapping[str, Stored], file: Path) -> Recognised:
    """What these tensors are.

    Raises:
      ValueError: none of the known layouts, or one of which something is missing, unexpected or of another shape.
    """
    for part, why in REFUSED.items():
        if any(part in name for name in found):
            raise ValueError(f"{file}: {why}")
    for original in LAYOUTS:
        prefix = original.prefix(found)
        if prefix is not None:
            return recognise(original, prefix, found, file)
    names = ", ".join(sorted(found)[:3])
    known = "; ".join(original.title for original in LAYOUTS)
    raise ValueError(f"{file}: tensors of no layout that is known here ({names}, ...); known: {known}")
