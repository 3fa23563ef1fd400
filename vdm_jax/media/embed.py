"""Clips and pictures as data URIs, so that a page needs nothing beside it."""

import base64

import numpy as np

from vdm_jax.media.grid import enlarge, png_bytes
from vdm_jax.media.video import encode_gif, encode_mp4

LEAST_SIDE = 128  # pixels of an embedded clip: at that size H.264's halved colour planes no longer smear one another


def data_uri(kind: str, content: bytes) -> str:
    """`data:KIND;base64,...`."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def embed_picture(picture: np.ndarray) -> dict[str, str]:
    """A picture, uint8 [H, W, 3], for `<img>`: `src`, `width`, `height`."""
    height, width = picture.shape[:2]
    return {"src": data_uri("image/png", png_bytes(picture)), "width": str(width), "height": str(height)}


def embed_clip(clip: np.ndarray, fps: float) -> dict[str, str]:
    """A clip, uint8 [T, H, W, 3], as an mp4 and its first frame, or a GIF where this FFmpeg has no H.264 encoder."""
    large = enlarge(clip, LEAST_SIDE)
    size = {"width": str(large.shape[2]), "height": str(large.shape[1])}
    try:
        video = data_uri("video/mp4", encode_mp4(large, fps))
    except (OSError, LookupError):  # PyAV: the codec is unknown, or cannot be opened
        return size | {"gif": data_uri("image/gif", encode_gif(clip, fps))}
    return size | {"mp4": video, "poster": data_uri("image/png", png_bytes(large[0]))}


def embed_mp4(video: bytes, first: np.ndarray) -> dict[str, str]:
    """An mp4 that browsers play, as it is, with its first frame, uint8 [H, W, 3]."""
    height, width = first.shape[:2]
    poster = data_uri("image/png", png_bytes(first))
    return {"width": str(width), "height": str(height), "mp4": data_uri("video/mp4", video), "poster": poster}
