"""Pictures for CLIP, against the published processor and the pipeline of Stable Video Diffusion."""

import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.models.encoders.image_processing import STD, clip_picture, resize_blurred, svd_picture

LEVEL = 1 / 255 / min(STD)  # one of 255 levels after normalisation


def picture(height, width, seed=0):
    """Smooth shapes and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    smooth = 127 + 100 * np.sin(x / 9 + np.arange(3)[:, None, None]) * np.cos(y / 7)
    return np.clip(smooth.transpose(1, 2, 0) + rng.normal(0, 30, (height, width, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [(240, 320), (61, 45), (300, 70), (32, 32), (33, 200)])
def test_like_the_published_processor(size):
    processing = pytest.importorskip(
        "transformers.models.clip.image_processing_pil_clip", reason="the published processor is the oracle"
    )
    processor = processing.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pixels = picture(*size)
    wanted = processor(pixels, return_tensors="np", input_data_format="channels_last")["pixel_values"]
    found = np.asarray(clip_picture(jnp.asarray(pixels)[None], 32)).transpose(0, 3, 1, 2)
    assert found.shape == wanted.shape
    difference = np.abs(found - wanted)
    tall = size[0] > 2 * size[1]  # Pillow 13 takes the height of these first
    assert difference.max() <= (2.01 if tall else 1.01) * LEVEL
    assert tall or (difference > 1e-4).mean() < 1e-3


def test_floats_are_not_rounded_and_crops_may_be_left_out():
    pixels = picture(61, 45)
    whole = clip_picture(jnp.asarray(pixels)[None], 32)
    floats = clip_picture(jnp.asarray(pixels, jnp.float32)[None] / 255, 32)
    assert 0 < np.abs(whole - floats).max() < 8 * LEVEL  # clipping at 0 and 255 too
    assert clip_picture(jnp.asarray(pixels)[None], 32, crop=False).shape == (1, 32, 32, 3)


@pytest.mark.parametrize("size", [(72, 128), (40, 17), (224, 225), (9, 500)])
def test_like_the_pipeline_of_stable_video_diffusion(size):
    pipeline = pytest.importorskip(
        "diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion", reason="it is the oracle"
    )
    import torch

    x = np.random.default_rng(1).uniform(-1, 1, (2, *size, 3)).astype(np.float32)
    theirs = pipeline._resize_with_antialiasing(torch.from_numpy(x).permute(0, 3, 1, 2), (24, 32))
    found = resize_blurred(jnp.asarray(x), (24, 32))
    np.testing.assert_allclose(found, theirs.permute(0, 2, 3, 1).numpy(), rtol=1e-5, atol=3e-6)


def test_svd_picture_is_normalised():
    flat = svd_picture(jnp.full((1, 30, 40, 3), 0.5), 16)
    np.testing.assert_allclose(flat[0, 3, 5], (0.75 - np.array((0.48145466, 0.4578275, 0.40821073))) / STD, rtol=1e-5)


def test_what_is_no_picture_is_refused():
    with pytest.raises(ValueError, match=r"expected \[B, H, W, 3\]"):
        clip_picture(jnp.zeros((8, 8, 3)))
    with pytest.raises(ValueError, match="uint8, expected floats"):
        svd_picture(jnp.zeros((1, 8, 8, 3), jnp.uint8))
    with pytest.raises(ValueError, match="height and width must be 3 or more"):
        svd_picture(jnp.zeros((1, 2, 8, 3)))
