"""Clips as training sees them: the latents of the published autoencoder, the conditions of the published pipeline."""

import sys
import types

import numpy as np
import pytest
from PIL import Image

from tests.interop.pipelines.oracle import imported, network, picture, scheduler, tokenizer
from vdm_jax.interop.families.autoencoders_cogvideox import AUTOENCODER_COGVIDEOX
from vdm_jax.interop.families.autoencoders_kl import AUTOENCODER_TEMPORAL_DECODER
from vdm_jax.interop.families.autoencoders_wan import AUTOENCODER_WAN
from vdm_jax.interop.families.cogvideox import COGVIDEOX
from vdm_jax.interop.families.encoders import CLIP_VISION, CLIP_VISION_PROJECTED, T5_ENCODER, UMT5_ENCODER
from vdm_jax.interop.families.unet import UNET_SPATIO_TEMPORAL
from vdm_jax.interop.families.wan import WAN
from vdm_jax.interop.finetuning import prompts
from vdm_jax.interop.finetuning.conditions import needs_of
from vdm_jax.interop.finetuning.encoding import open_encoder
from vdm_jax.interop.finetuning.origin import digest_of
from vdm_jax.interop.imported import import_folder, records_of
from vdm_jax.models.dit import DiTConfig
from vdm_jax.models.latte import LatteConfig
from vdm_jax.models.unet import UNetConfig

diffusers = pytest.importorskip("diffusers", reason="the published pipelines are the oracle")
transformers = pytest.importorskip("transformers", reason="the published encoders are the oracle")
torch = pytest.importorskip("torch", reason="the published pipelines are the oracle")

_TEXT = {"vocab_size": 12, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_heads": 2,
         "feed_forward_proj": "gated-gelu"}  # fmt: skip
_CLIP = {
    "hidden_size": 20, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 10,
    "image_size": 16, "patch_size": 8, "hidden_act": "gelu",
}  # fmt: skip
_WAN_VAE = {
    "base_dim": 8, "z_dim": 4, "dim_mult": [1, 2, 2], "num_res_blocks": 1, "temperal_downsample": [False, True],
    "scale_factor_temporal": 2, "scale_factor_spatial": 4,
    "latents_mean": [0.5, -0.5, 0.0, 0.1], "latents_std": [2.0, 1.5, 2.5, 1.0],
}  # fmt: skip
_WAN = {
    "patch_size": [1, 2, 2], "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 10, "out_channels": 4,
    "text_dim": 16, "freq_dim": 32, "ffn_dim": 48, "num_layers": 2, "image_dim": 20, "added_kv_proj_dim": 32,
}  # fmt: skip
_COG_VAE = {
    "down_block_types": ["CogVideoXDownBlock3D"] * 3, "up_block_types": ["CogVideoXUpBlock3D"] * 3,
    "block_out_channels": [8, 8, 16], "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 4,
    "scaling_factor": 0.7, "invert_scale_latents": True,
}  # fmt: skip
_COG = {
    "num_attention_heads": 2, "attention_head_dim": 32, "in_channels": 8, "out_channels": 4, "time_embed_dim": 16,
    "text_embed_dim": 16, "num_layers": 2, "sample_width": 8, "sample_height": 8, "sample_frames": 9,
    "max_text_seq_length": 6, "use_rotary_positional_embeddings": True, "patch_size_t": 2, "patch_bias": False,
    "ofs_embed_dim": 16,
}  # fmt: skip
_SVD_VAE = {"down_block_types": ["DownEncoderBlock2D"], "block_out_channels": [32], "layers_per_block": 2,
            "scaling_factor": 0.4}  # fmt: skip
_SVD = {
    "in_channels": 8, "out_channels": 4, "block_out_channels": [64], "layers_per_block": 1, "sample_size": 8,
    "down_block_types": ["CrossAttnDownBlockSpatioTemporal"], "up_block_types": ["CrossAttnUpBlockSpatioTemporal"],
    "num_attention_heads": [2], "cross_attention_dim": 10, "addition_time_embed_dim": 16,
    "projection_class_embeddings_input_dim": 48, "num_frames": 3,
}  # fmt: skip
_CAPTIONS = ["a red square moves left", "a blue square"]
_BAR = 1e-4


def clips(frames, height, width):
    return np.stack([picture(frames, height, width, 3, seed=seed) for seed in (1, 2)])


def in_torch(pixels):
    """uint8 `[..., H, W, 3]` -> `[..., 3, H, W]` in [-1, 1], frames behind channels."""
    return torch.from_numpy(np.moveaxis(pixels.astype(np.float32) / 127.5 - 1.0, -1, 1))


def last(latents):
    """Channels last, in numpy."""
    return latents.detach().movedim(1, -1).numpy()


def check_close(ours, theirs):
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= _BAR * np.abs(theirs).max()
    assert np.ptp(theirs) > 1e-2, "says nothing"


def encoded(run, pixels, fps=8.0):
    """What two clips come to, one of them in a batch that is not full."""
    encoder = open_encoder(run, pixels.shape[1:4], batch=3)
    encoder.load()
    made = encoder.encode(pixels, _CAPTIONS, [fps] * 2)
    assert {name: (x.shape, x.dtype) for name, x in encoder.shapes().items()} == {
        name: (x.shape[1:], x.dtype) for name, x in made.conditions.items()
    }
    assert made.latents.shape == (2, *encoder.latent_shape)
    return encoder, made


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    pipeline = diffusers.WanImageToVideoPipeline(
        tokenizer=tokenizer(),
        text_encoder=network(UMT5_ENCODER, _TEXT, 1, 0.3),
        vae=network(AUTOENCODER_WAN, _WAN_VAE, 2),
        transformer=network(WAN, _WAN, 3),
        scheduler=scheduler("wan_unipc_480p"),
        image_encoder=network(CLIP_VISION, _CLIP, 5, 0.3),
        image_processor=transformers.CLIPImageProcessor(
            size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
        ),
    )
    return pipeline, imported(pipeline, tmp_path_factory.mktemp("wan"))


def test_wan_image_to_video(wan, monkeypatch):
    pipeline, run = wan
    text = types.SimpleNamespace(fix_text=str)  # of ftfy, which theirs asks for; sound text stays as it is
    monkeypatch.setattr(sys.modules[type(pipeline).__module__], "ftfy", text, raising=False)
    pixels = clips(5, 16, 24)
    encoder, made = encoded(run, pixels)
    config = pipeline.vae.config
    with torch.no_grad():
        latents = last(pipeline.vae.encode(in_torch(pixels)).latent_dist.mode())
        check_close(made.latents, (latents - config.latents_mean) / config.latents_std)
        text, nothing = pipeline.encode_prompt(_CAPTIONS, negative_prompt="", max_sequence_length=512)
        for i, clip in enumerate(pixels):
            given = {"batch_size": 1, "num_channels_latents": 4, "height": 16, "width": 24, "num_frames": 5}
            _, concat = pipeline.prepare_latents(in_torch(clip[:1]), **given, dtype=torch.float32)
            check_close(made.conditions["concat"][i], last(concat)[0])
            check_close(made.conditions["image"][i], pipeline.encode_image(Image.fromarray(clip[0])).numpy()[0])
    check_close(made.conditions["tokens"], text.numpy())
    assert made.conditions["tokens_mask"].sum(1).tolist() == [6, 4]
    null = encoder.null()
    check_close(null["tokens"], nothing.numpy()[0])
    assert null["tokens_mask"].sum() == 1


def test_what_training_compares(wan):
    run = wan[1]
    found = open_encoder(run, (5, 16, 24), 1).described()
    assert found.keys() == {"vae", "text_encoder", "image_encoder"}
    assert {name: made["digest"] for name, made in found.items()} == {name: digest_of(run, name) for name in found}
    assert found["vae"]["class"] == "AutoencoderKLWan"
    assert found["vae"]["shift"] == _WAN_VAE["latents_mean"]
    assert found["text_encoder"]["length"] == 512


def test_what_cannot_be_encoded_is_said_before_weights_are_read(wan, tmp_path):
    pipeline, run = wan
    for size, message in (
        ((4, 16, 24), "clip: 4 frames cannot be represented; the nearest that can: 3 or 5"),
        ((5, 18, 24), "clip: 18 height cannot be represented; the nearest that can: 16 or 20"),
        ((5, 12, 24), "latents of 5x12x24 clips: height: 3"),
    ):
        with pytest.raises(ValueError, match=message):
            open_encoder(run, size, 1)
    with pytest.raises(ValueError, match="batch: 0"):
        open_encoder(run, (5, 16, 24), 0)
    pipeline.transformer.save_pretrained(tmp_path / "alone")
    import_folder(tmp_path / "alone", tmp_path / "run")
    with pytest.raises(ValueError, match=r"holds no autoencoder.*it has: model \(WanTransformer3DModel\)"):
        open_encoder(tmp_path / "run", (5, 16, 24), 1)


def test_an_autoencoder_alone(wan, tmp_path):
    pipeline, whole = wan
    pipeline.vae.save_pretrained(tmp_path / "alone")
    import_folder(tmp_path / "alone", tmp_path / "run")
    assert records_of(tmp_path / "run").keys() == {"model"}
    encoder, made = encoded(tmp_path / "run", clips(1, 16, 24))
    assert not made.conditions
    assert encoder.null() == {}
    assert encoder.described()["vae"] == open_encoder(whole, (1, 16, 24), 1).described()["vae"]


def test_cogvideox_image_to_video(tmp_path):
    """1.5: the number of latent frames is odd, so that of the first one there is a copy in front."""
    vae = network(AUTOENCODER_COGVIDEOX, _COG_VAE, 2)
    pipeline = diffusers.CogVideoXImageToVideoPipeline(
        tokenizer=tokenizer(),
        text_encoder=network(T5_ENCODER, _TEXT, 1, 0.3),
        vae=vae,
        transformer=network(COGVIDEOX, _COG, 3),
        scheduler=scheduler("cogvideox_5b_ddim"),
    )
    run, pixels = imported(pipeline, tmp_path), clips(9, 16, 16)
    encoder, made = encoded(run, pixels)
    with torch.no_grad():
        latents = last(vae.encode(in_torch(pixels)).latent_dist.mode()) * 0.7
        first = last(vae.encode(in_torch(pixels[:, :1])).latent_dist.mode()) / 0.7
        text, nothing = pipeline.encode_prompt(_CAPTIONS, negative_prompt=["", ""], max_sequence_length=6)
    assert latents.shape[1] == 3
    check_close(made.latents, np.concatenate([latents[:, :1], latents], axis=1))
    zeros = np.zeros_like(latents[:, 1:])
    check_close(made.conditions["concat"], np.concatenate([first, first, zeros], axis=1))
    check_close(made.conditions["tokens"], text.numpy())
    check_close(encoder.null()["tokens"], nothing.numpy()[0])
    np.testing.assert_array_equal(made.conditions["vector.ofs"], [2.0, 2.0])


def test_stable_video_diffusion(tmp_path):
    vae = network(AUTOENCODER_TEMPORAL_DECODER, _SVD_VAE, 2)
    pipeline = diffusers.StableVideoDiffusionPipeline(
        vae=vae,
        image_encoder=network(CLIP_VISION_PROJECTED, {**_CLIP, "image_size": 224, "patch_size": 112}, 5, 0.3),
        unet=network(UNET_SPATIO_TEMPORAL, _SVD, 3),
        scheduler=scheduler("svd_euler"),
        feature_extractor=transformers.CLIPImageProcessor(
            size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
        ),
    )
    run, pixels = imported(pipeline, tmp_path), clips(3, 8, 8)
    encoder, made = encoded(run, pixels, fps=7.0)
    with torch.no_grad():
        frames = in_torch(pixels.reshape(-1, 8, 8, 3))
        latents = last(vae.encode(frames).latent_dist.mode()).reshape(2, 3, 8, 8, 4)
        features = [pipeline._encode_image(Image.fromarray(clip[0]), "cpu", 1, False)[0].numpy() for clip in pixels]
    check_close(made.latents, latents * 0.4)
    check_close(made.conditions["concat"], np.repeat(latents[:, :1], 3, axis=1))
    check_close(made.conditions["tokens"], np.stack(features))
    assert made.conditions["vector.fps"].tolist() == [6.0, 6.0]
    assert made.conditions["vector.augmentation"].tolist() == [0.0, 0.0]
    null = encoder.null()
    assert not null["tokens"].any()
    assert null["tokens_mask"].all()
    assert encoder.needs.repeats == ("concat",)


def test_how_the_others_read_prompts():
    latte, unet, nothing = needs_of(LatteConfig()), needs_of(UNetConfig()), needs_of(None)
    assert (latte.length, latte.reading.clean, latte.reading.zeroed) == (120, prompts.LATTE.clean, True)
    assert (unet.length, unet.reading) == (None, prompts.PLAIN)
    assert nothing.reading.masked
    with pytest.raises(ValueError, match="denoiser: DiTConfig is not known here"):
        needs_of(DiTConfig())
