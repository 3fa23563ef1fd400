"""Files of the authors of models: the same tensors as diffusers makes of them, and what is wrong with a file."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.interop.test_component import same_bits, values
from vdm_jax.cli.main import main
from vdm_jax.errors import RunError
from vdm_jax.interop.families.known import FAMILIES
from vdm_jax.interop.files.tensors import TensorWriter, read_header, tensors_of
from vdm_jax.interop.imported import records_of
from vdm_jax.interop.originals.animatediff import MOTION_MODULES
from vdm_jax.interop.originals.layout import Original, write_original, write_published
from vdm_jax.interop.originals.layouts import LAYOUTS, open_original, recognised
from vdm_jax.interop.originals.svd import SVD_AUTOENCODER, SVD_IMAGE_ENCODER, SVD_UNET
from vdm_jax.interop.originals.wan import WAN_22_AUTOENCODER, WAN_AUTOENCODER, WAN_TEXT, WAN_TRANSFORMER

PUBLISHED = Path(__file__).parents[1] / "published"
FULL = [
    (WAN_TRANSFORMER, "Wan2.1-T2V-1.3B"), (WAN_TRANSFORMER, "Wan2.1-T2V-14B"), (WAN_TRANSFORMER, "Wan2.1-I2V-14B"),
    (WAN_TRANSFORMER, "Wan2.1-FLF2V-14B"), (WAN_TRANSFORMER, "Wan2.2-I2V-A14B"), (WAN_TRANSFORMER, "Wan2.2-TI2V-5B"),
    (WAN_AUTOENCODER, "Wan2.1-vae"), (WAN_22_AUTOENCODER, "Wan2.2-TI2V-5B-vae"), (WAN_TEXT, "Wan2.1-text_encoder"),
    (MOTION_MODULES, "animatediff-motion-adapter-v1-5-2"), (MOTION_MODULES, "animatediff-motion-adapter-v1-5-3"),
    (SVD_UNET, "stable-video-diffusion-img2vid-xt"), (SVD_AUTOENCODER, "stable-video-diffusion-vae"),
    (SVD_IMAGE_ENCODER, "stable-video-diffusion-img2vid-xt-image_encoder"),
]  # fmt: skip
TINY = {
    WAN_TRANSFORMER: {
        "_class_name": "WanTransformer3DModel", "num_attention_heads": 1, "attention_head_dim": 128, "in_channels": 9,
        "out_channels": 4, "text_dim": 24, "freq_dim": 32, "ffn_dim": 48, "num_layers": 2, "image_dim": 20,
        "added_kv_proj_dim": 128, "pos_embed_seq_len": 6,
    },
    WAN_AUTOENCODER: {"_class_name": "AutoencoderKLWan", "base_dim": 4},
    WAN_22_AUTOENCODER: {
        "_class_name": "AutoencoderKLWan", "base_dim": 4, "decoder_base_dim": 8, "z_dim": 48, "is_residual": True,
        "in_channels": 12, "out_channels": 12, "patch_size": 2, "scale_factor_spatial": 16,
        "latents_mean": [0.0] * 48, "latents_std": [1.0] * 48,
    },
    WAN_TEXT: {
        "architectures": ["UMT5EncoderModel"], "d_model": 16, "d_ff": 24, "d_kv": 4, "num_heads": 4, "num_layers": 2,
        "vocab_size": 40, "feed_forward_proj": "gated-gelu",
    },
    MOTION_MODULES: {"_class_name": "MotionAdapter", "block_out_channels": [32, 64], "motion_max_seq_length": 8},
    SVD_UNET: {
        "_class_name": "UNetSpatioTemporalConditionModel", "block_out_channels": [64, 128], "in_channels": 8,
        "out_channels": 4, "num_attention_heads": [1, 2], "cross_attention_dim": 24, "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24, "layers_per_block": 2,
        "down_block_types": ["CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"],
        "up_block_types": ["UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"],
    },
    SVD_AUTOENCODER: {
        "_class_name": "AutoencoderKLTemporalDecoder", "down_block_types": ["DownEncoderBlock2D"] * 3,
        "block_out_channels": [32, 64, 64], "layers_per_block": 2,
    },
    SVD_IMAGE_ENCODER: {
        "architectures": ["CLIPVisionModelWithProjection"], "hidden_act": "gelu", "hidden_size": 160,
        "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 24,
        "image_size": 224, "patch_size": 56,
    },
}  # fmt: skip
# Names of files as they were published, numbers as #.
FACTS = {
    WAN_TRANSFORMER: (
        "blocks.#.self_attn.norm_q.weight blocks.#.self_attn.o.bias blocks.#.cross_attn.k_img.weight"
        " blocks.#.cross_attn.norm_k_img.weight blocks.#.modulation blocks.#.norm#.weight blocks.#.ffn.#.weight"
        " head.head.weight head.modulation img_emb.proj.#.weight img_emb.emb_pos text_embedding.#.bias"
        " time_embedding.#.weight time_projection.#.weight patch_embedding.bias"
    ),
    WAN_AUTOENCODER: (
        "encoder.conv#.weight encoder.downsamples.#.residual.#.gamma encoder.downsamples.#.resample.#.weight"
        " encoder.downsamples.#.time_conv.bias encoder.downsamples.#.shortcut.weight encoder.middle.#.to_qkv.weight"
        " encoder.head.#.gamma decoder.upsamples.#.shortcut.bias decoder.middle.#.proj.bias conv#.weight"
    ),
    WAN_TEXT: (
        "token_embedding.weight blocks.#.norm#.weight blocks.#.attn.q.weight blocks.#.attn.o.weight norm.weight"
        " blocks.#.pos_embedding.embedding.weight blocks.#.ffn.gate.#.weight blocks.#.ffn.fc#.weight"
    ),
    MOTION_MODULES: (
        "down_blocks.#.motion_modules.#.temporal_transformer.norm.weight"
        " mid_block.motion_modules.#.temporal_transformer.proj_in.weight"
        " up_blocks.#.motion_modules.#.temporal_transformer.transformer_blocks.#.attention_blocks.#.to_out.#.bias"
        " up_blocks.#.motion_modules.#.temporal_transformer.transformer_blocks.#.attention_blocks.#.pos_encoder.pe"
        " up_blocks.#.motion_modules.#.temporal_transformer.transformer_blocks.#.norms.#.weight"
        " up_blocks.#.motion_modules.#.temporal_transformer.transformer_blocks.#.ff_norm.weight"
        " up_blocks.#.motion_modules.#.temporal_transformer.transformer_blocks.#.ff.net.#.proj.weight"
    ),
    SVD_UNET: (
        "time_embed.#.weight label_emb.#.#.weight input_blocks.#.#.weight input_blocks.#.#.op.weight"
        " input_blocks.#.#.in_layers.#.weight input_blocks.#.#.emb_layers.#.bias"
        " input_blocks.#.#.time_stack.in_layers.#.weight input_blocks.#.#.time_stack.emb_layers.#.weight"
        " input_blocks.#.#.time_mixer.mix_factor input_blocks.#.#.time_stack.#.ff_in.net.#.proj.weight"
        " input_blocks.#.#.time_pos_embed.#.weight middle_block.#.time_stack.out_layers.#.weight"
        " output_blocks.#.#.skip_connection.weight output_blocks.#.#.conv.weight out.#.bias"
    ),
}
# Published name -> the name that the authors' own code gives it, of layouts for which there is no converter.
NAMES = {
    WAN_22_AUTOENCODER: {
        "encoder.down_blocks.1.resnets.0.conv1.weight": "encoder.downsamples.1.downsamples.0.residual.2.weight",
        "encoder.down_blocks.1.resnets.1.norm2.gamma": "encoder.downsamples.1.downsamples.1.residual.3.gamma",
        "encoder.down_blocks.1.downsampler.time_conv.bias": "encoder.downsamples.1.downsamples.2.time_conv.bias",
        "encoder.down_blocks.0.downsampler.resample.1.bias": "encoder.downsamples.0.downsamples.2.resample.1.bias",
        "encoder.mid_block.attentions.0.to_qkv.weight": "encoder.middle.1.to_qkv.weight",
        "decoder.up_blocks.0.resnets.2.conv2.bias": "decoder.upsamples.0.upsamples.2.residual.6.bias",
        "decoder.up_blocks.2.resnets.0.conv_shortcut.bias": "decoder.upsamples.2.upsamples.0.shortcut.bias",
        "decoder.up_blocks.0.upsampler.time_conv.bias": "decoder.upsamples.0.upsamples.3.time_conv.bias",
        "decoder.conv_in.bias": "decoder.conv1.bias", "decoder.norm_out.gamma": "decoder.head.0.gamma",
        "quant_conv.weight": "conv1.weight", "post_quant_conv.bias": "conv2.bias",
    },
    SVD_AUTOENCODER: {
        f"decoder.{ours}": f"first_stage_model.decoder.{theirs}" for ours, theirs in (
            ("mid_block.resnets.1.temporal_res_block.norm1.bias", "mid.block_2.time_stack.in_layers.0.bias"),
            ("mid_block.resnets.0.temporal_res_block.conv1.weight", "mid.block_1.time_stack.in_layers.2.weight"),
            ("up_blocks.0.resnets.2.temporal_res_block.norm2.weight", "up.2.block.2.time_stack.out_layers.0.weight"),
            ("up_blocks.2.resnets.1.temporal_res_block.conv2.bias", "up.0.block.1.time_stack.out_layers.3.bias"),
            ("up_blocks.1.resnets.0.time_mixer.mix_factor", "up.1.block.0.mix_factor"),
            ("time_conv_out.weight", "conv_out.time_mix_conv.weight"),
        )
    },
}  # fmt: skip


def shapes_of(published: dict) -> dict:
    family = FAMILIES[(published.get("architectures") or [published.get("_class_name")])[0]]
    config = family.config(published)
    return family.keymap(config).shapes(family.shapes(config))


def written(original: Original, folder: Path, dtype=np.float32) -> Path:
    """A file of the authors, random, under the names that our layout gives; `positions` are the published constants."""
    published = TINY[original]
    family = FAMILIES[(published.get("architectures") or [published.get("_class_name")])[0]]
    rng, shapes = np.random.default_rng(0), shapes_of(published)
    constants = {buffer.theirs: buffer.make() for buffer in family.keymap(family.config(published)).buffers}
    plain = folder / "plain"
    plain.mkdir(parents=True)
    writer = TensorWriter(plain, "model", {name: (shape, dtype) for name, shape in shapes.items()})
    for name, shape in shapes.items():
        writer.put(name, np.asarray(constants.get(name, rng.standard_normal(shape)), dtype))
    writer.close()
    write_original(original, tensors_of(plain), folder, "original")
    return folder / "original.safetensors"


def masked(name: str) -> str:
    return re.sub(r"\d+", "#", name)


@pytest.mark.parametrize(("original", "name"), FULL, ids=[name for _, name in FULL])
def test_shapes_alone_say_what_a_full_model_is(original, name):
    published = json.loads((PUBLISHED / f"{name}.json").read_text())
    wanted = shapes_of(published)
    theirs = {original.rename(there, wanted): original.form(there).shape(shape) for there, shape in wanted.items()}
    assert len({(original.rename(there, wanted), original.form(there).part) for there in wanted}) == len(wanted)
    assert [layout for layout in LAYOUTS if layout.prefix(theirs) is not None] == [original]
    found = original.config(theirs)
    family = FAMILIES[(found.get("architectures") or [found.get("_class_name")])[0]]
    assert family.config(found) == family.config(published)
    assert {there: original.rename(there, theirs) for there in wanted} == {
        there: original.rename(there, wanted) for there in wanted
    }


@pytest.mark.parametrize("original", TINY, ids=lambda original: original.component)
def test_a_file_becomes_the_published_class_and_back(original, tmp_path):
    file = written(original, tmp_path)
    names = read_header(file).keys()
    assert set(FACTS.get(original, "").split()) <= {masked(name) for name in names}
    assert set(NAMES.get(original, {}).values()) <= names
    found = open_original(file)
    assert found.original is original
    assert found.left_out == tuple(sorted(twin for name in names if (twin := original.twin(name)) is not None))
    write_published(found, tmp_path / "published")
    published = values(tmp_path / "published")
    assert same_bits(values(tmp_path / "plain"), published)
    for ours, theirs in NAMES.get(original, {}).items():
        np.testing.assert_array_equal(published[ours], read_header(file)[theirs].read())
    (tmp_path / "back").mkdir()
    write_original(original, tensors_of(tmp_path / "published"), tmp_path / "back", "original")
    assert same_bits(values(tmp_path / "back"), {name: stored.read() for name, stored in read_header(file).items()})


def over_time(converted: dict) -> dict:
    """What diffusers makes of SVD's file, whose converter knows no residual blocks over time, put under them."""
    named = {}
    for name, tensor in converted.items():
        parts = re.fullmatch(r"(.*\.resnets\.\d+)\.(time_stack\.)?(.*)", name)
        if parts and not parts[3].startswith("time_mixer"):
            name = f"{parts[1]}.{'temporal' if parts[2] else 'spatial'}_res_block.{parts[3]}"
        name = name.replace(".time_stack.", ".temporal_transformer_blocks.")
        name = name.replace("time_pos_embed.0.", "time_pos_embed.linear_1.")
        named[name.replace("time_pos_embed.2.", "time_pos_embed.linear_2.")] = tensor
    return named


def without_time(name: str) -> bool:
    return not any(part in name for part in ("time_stack", "mix_factor", "time_mix_conv"))


def converted_autoencoder(single, tensors: dict) -> dict:
    """What diffusers makes of an autoencoder of latent diffusion: that of SVD but for what it has over time."""
    sides = ("conditioner.embedders.3.encoder.", "first_stage_model.")
    named = {n.removeprefix(sides[0]).removeprefix(sides[1]): v for n, v in tensors.items() if without_time(n)}
    levels = len(TINY[SVD_AUTOENCODER]["block_out_channels"])
    config = {"down_block_types": [""] * levels, "up_block_types": [""] * levels}
    made = single.convert_ldm_vae_checkpoint(named, config)
    return {re.sub(r"(decoder\..*resnets\.\d+)", r"\1.spatial_res_block", n): v for n, v in made.items()}


def converted_by_diffusers(original: Original, tensors: dict) -> dict:
    single = pytest.importorskip("diffusers.loaders.single_file_utils", reason="its converters are the oracle")
    if original is WAN_TRANSFORMER:
        return single.convert_wan_transformer_to_diffusers(dict(tensors))
    if original is WAN_AUTOENCODER:
        return single.convert_wan_vae_to_diffusers(dict(tensors))
    if original is MOTION_MODULES:
        return single.convert_animatediff_checkpoint_to_diffusers(dict(tensors))
    if original is SVD_AUTOENCODER:
        return converted_autoencoder(single, tensors)
    named = {f"model.diffusion_model.{name}": tensor for name, tensor in tensors.items()}
    config = {"layers_per_block": TINY[SVD_UNET]["layers_per_block"], "addition_embed_type": "text_time"}
    return over_time(single.convert_ldm_unet_checkpoint(named, config))


CONVERTED = (WAN_TRANSFORMER, WAN_AUTOENCODER, MOTION_MODULES, SVD_UNET, SVD_AUTOENCODER)


@pytest.mark.parametrize("original", CONVERTED, ids=lambda original: original.component)
def test_diffusers_makes_the_same_tensors_of_it(original, tmp_path):
    """By its own converters; of motion modules it leaves the positions out, and of Wan it passes one name by."""
    torch = pytest.importorskip("torch", reason="diffusers converts its tensors")
    file = written(original, tmp_path)
    write_published(open_original(file), tmp_path / "published")
    tensors = {name: torch.from_numpy(stored.read()) for name, stored in read_header(file).items()}
    theirs = {name: tensor.numpy() for name, tensor in converted_by_diffusers(original, tensors).items()}
    passed = "img_emb.emb_pos"
    theirs = {name.replace(passed, "condition_embedder.image_embedder.pos_embed"): v for name, v in theirs.items()}
    ours = {name: value for name, value in values(tmp_path / "published").items() if not name.endswith(".pe")}
    if original is SVD_AUTOENCODER:
        ours = {n: v for n, v in ours.items() if not re.search("temporal_res_block|time_mixer|time_conv_out", n)}
    assert same_bits(ours, theirs)


def test_a_file_is_imported_from_the_command_line(tmp_path, capsys):
    file = written(MOTION_MODULES, tmp_path, np.float16)
    assert main(["import", str(file), "--out", str(tmp_path / "run"), "--dtype", "fp32"]) == 0
    page = capsys.readouterr().out
    assert MOTION_MODULES.title in page
    assert "model: MotionAdapter" in page
    assert records_of(tmp_path / "run")["model"]["source"] == str(file)
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    assert same_bits(values(tmp_path / "plain"), values(tmp_path / "out"))
    assert not list(tmp_path.glob(".run*"))


def test_what_no_network_reads_is_left_out_and_named(tmp_path):
    """Motion modules hold their positions twice; SVD's file also an autoencoder and an encoder."""
    tensors = read_header(written(MOTION_MODULES, tmp_path / "motion"))
    twins = sorted(name for name in tensors if name.endswith("attention_blocks.1.pos_encoder.pe"))
    assert twins
    assert recognised(tensors, tmp_path).left_out == tuple(twins)
    assert recognised({n: s for n, s in tensors.items() if n not in twins}, tmp_path).left_out == ()
    tensors = {f"model.diffusion_model.{n}": s for n, s in read_header(written(SVD_UNET, tmp_path / "svd")).items()}
    more = {"first_stage_model.encoder.conv_in.bias": tensors["model.diffusion_model.out.0.bias"]}
    found = recognised(tensors | more, tmp_path)
    assert (found.original, found.left_out) == (SVD_UNET, tuple(more))


def test_a_folder_of_authors_and_a_prefix_are_known(tmp_path):
    written(WAN_TRANSFORMER, tmp_path)
    folder = tmp_path / "authors"
    folder.mkdir()
    tensors = read_header(tmp_path / "original.safetensors")
    named = {f"model.diffusion_model.{name}": stored for name, stored in tensors.items()}
    writer = TensorWriter(folder, "part", {name: (s.shape, s.dtype) for name, s in named.items()}, max_file=60_000)
    for name, stored in named.items():
        writer.put(name, stored.read())
    writer.close()
    (folder / "config.json").write_text('{"_class_name": "WanModel"}')
    assert main(["import", str(folder), "--out", str(tmp_path / "run")]) == 0
    assert same_bits(values(tmp_path / "plain"), values(tmp_path / "run/weights/model"))


def test_what_is_wrong_with_a_file_is_said(tmp_path):
    file = written(WAN_TRANSFORMER, tmp_path)
    tensors = {name: stored.read() for name, stored in read_header(file).items()}

    def changed(name: str, **changes) -> Path:
        kept = {n: v for n, v in (tensors | changes).items() if v is not None}
        writer = TensorWriter(tmp_path, name, {n: (v.shape, v.dtype) for n, v in kept.items()})
        for n, v in kept.items():
            writer.put(n, v)
        writer.close()
        return tmp_path / f"{name}.safetensors"

    key = "blocks.1.self_attn.k.weight"
    with pytest.raises(ValueError, match="1 missing: blocks.1.self_attn.k.weight .nearest: blocks.1.self_attn.kk"):
        open_original(changed("missing", **{key: None, "blocks.1.self_attn.kk.weight": tensors[key]}))
    with pytest.raises(ValueError, match=r"1 of another shape: blocks.1.self_attn.k.weight \[3\], wanted \[128, 128\]"):
        open_original(changed("shape", **{key: np.zeros(3, np.float32)}))
    with pytest.raises(ValueError, match="it has no tensor text_embedding.0.weight"):
        open_original(changed("less", **{"text_embedding.0.weight": None}))
    with pytest.raises(ValueError, match="tensors of no layout that is known here"):
        open_original(changed("other", **{"head.modulation": None}))
    place = "model.diffusion_model.input_blocks.1.2.transformer_blocks.0.attn1"
    crafter = {f"{place}.relative_position_k.embeddings_table": np.zeros(3, np.float32)}
    with pytest.raises(ValueError, match="VideoCrafter1: its transformers over time know"):
        open_original(changed("crafter", **crafter))
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(RunError, match="it is cut off"):
        open_original(file)
    with pytest.raises(ValueError, match=r"suffix: unknown '.safetensor'; did you mean '.safetensors'"):
        open_original(file.with_suffix(".safetensor"))
