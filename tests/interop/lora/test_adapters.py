"""Low-rank pairs: against the published classes with PEFT, out to files and back in."""

import functools
import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

from tests.interop.parity import published as published_config
from tests.interop.test_component import values
from vdm_jax.adapters.lora import LoRAConfig, add_lora, merged
from vdm_jax.cli.main import main
from vdm_jax.interop.cases import CASES
from vdm_jax.interop.component import Component, read, write
from vdm_jax.interop.families.family import NETWORK
from vdm_jax.interop.families.known import FAMILIES
from vdm_jax.interop.imported import import_folder, open_imported, records_of
from vdm_jax.interop.lora.adapters import factors_of, matrix_shapes, published_names
from vdm_jax.interop.lora.files import WEIGHTS_NAME, Factors, read_lora, write_lora
from vdm_jax.interop.lora.names import comfy_spellings, prefix_of
from vdm_jax.interop.originals.animatediff import MOTION_MODULES
from vdm_jax.interop.parity import (
    FORWARD_BAR,
    QUICK,
    build_published,
    open_published,
    redraw,
    relative_error,
    to_published,
)
from vdm_jax.training.state import define, overlay

TRAINED = {
    "WanTransformer3DModel": ("attn1", "attn2", "ffn", "patch_embedding", "proj_out", "image_embedder"),
    "CogVideoXTransformer3DModel": ("to_*", "ff", "patch_embed", "proj_out", "norm1"),
    "LatteTransformer3DModel": ("to_*", "ff", "proj"),
    "UNet2DConditionModel": ("to_*", "proj_in", "conv1", "conv_shortcut"),
    # Not the ends of motion modules: diffusers calls these by keyword, and PEFT's layers take no such call.
    "UNetMotionModel": ("to_*", "ff", "attentions.*.proj_in", "attentions.*.proj_out", "conv1", "downsamplers"),
    "UNet3DConditionModel": ("to_*", "temp_convs", "proj_in"),
    "UNetSpatioTemporalConditionModel": ("to_*", "temporal_res_block", "proj_in"),
}
# Of several networks of a class, that with the most layouts.
LARGEST = {
    "WanTransformer3DModel": "image-to-video",
    "CogVideoXTransformer3DModel": "5b",
    "UNet2DConditionModel": "Stable Diffusion 1",
}
PICKED = {
    case.family.published: case
    for case in CASES
    if case.family.published in TRAINED and LARGEST.get(case.family.published, case.name) == case.name
}
CONFIG = {name: LoRAConfig(targets, rank=3, alpha=6.0) for name, targets in TRAINED.items()}


def drawn(shapes, seed):
    """Weights of these shapes that hide nothing."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: np.float32(0.05 * rng.standard_normal(leaf.shape)), shapes)


@functools.cache
def adapted(published):
    """The static half of a network with pairs, and weights, all of them drawn."""
    case, config = PICKED[published], CONFIG[published]
    ours = case.family.config(case.published)

    def make(rngs):
        network = case.family.module(ours, rngs)
        add_lora(network, config, rngs, published_names(case.family, ours))
        return {NETWORK: network}

    networks = define(make)
    return networks, Component(case.family, ours, drawn(networks.abstract[NETWORK], 0))


def without(component):
    """Its weights without pairs."""
    flat = flatten_dict(component.params)
    return unflatten_dict({path: leaf for path, leaf in flat.items() if "lora" not in path})


@pytest.mark.parametrize("published", PICKED)
def test_published_pairs_have_the_product_of_ours(published):
    """All layouts: convolutions, patches, fused and permuted matrices."""
    _, component = adapted(published)
    scale = CONFIG[published].scale
    pairs = factors_of(component.family, component.config, component.params, scale)
    before = to_published(component, without(component))
    after = to_published(component, merged(component.params, scale))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {f"{stem}.weight" for stem in pairs}
    for stem, pair in pairs.items():
        wanted = before[f"{stem}.weight"] + pair.product()
        np.testing.assert_allclose(after[f"{stem}.weight"], wanted, rtol=0, atol=1e-6)


def pairs_of(published):
    """Pairs of a tiny network, by published name."""
    _, component = adapted(published)
    return factors_of(component.family, component.config, component.params, CONFIG[published].scale)


def shapes_of(published):
    case = PICKED[published]
    return matrix_shapes(case.family, case.family.config(case.published))


def same(found, wanted):
    """Whether pairs have the same products."""
    assert found.keys() == wanted.keys()
    for stem in wanted:
        np.testing.assert_allclose(found[stem].product(), wanted[stem].product(), rtol=1e-6, atol=1e-7)
    return True


@pytest.mark.parametrize("published", ["WanTransformer3DModel", "CogVideoXTransformer3DModel", "UNetMotionModel"])
def test_peft_computes_the_same(published, tmp_path):
    """As the network here with its pairs, but for a UNet, which takes long to compile: there as the merged weights."""
    pytest.importorskip("diffusers", reason="the published class is what is compared with")
    pytest.importorskip("peft", reason="it is what puts a LoRA into the published class")
    import torch

    case, (networks, component) = PICKED[published], adapted(published)
    theirs = build_published(case.family, case.published)
    redraw(theirs, case.std)
    theirs.save_pretrained(tmp_path / "base")
    params = overlay(component.params, read(tmp_path / "base").params)
    scale = CONFIG[published].scale
    pairs = factors_of(case.family, component.config, params, scale)
    write_lora(tmp_path, "peft", pairs, published, shapes_of(published))
    inputs = case.draw()
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    with torch.no_grad():
        base = case.theirs(theirs, tensors).numpy()
        if published == "UNetMotionModel":
            write(Component(case.family, component.config, merged(params, scale)), tmp_path / "merged")
            found = case.theirs(open_published(case.family, tmp_path / "merged"), tensors).numpy()
        else:
            run = jax.jit(lambda p, x: case.ours(networks.merge({NETWORK: p})[NETWORK], x), compiler_options=QUICK)
            found = np.asarray(run(params, inputs))
        theirs.load_lora_adapter(tmp_path, prefix=prefix_of(published), weight_name=WEIGHTS_NAME)
        wanted = case.theirs(theirs, tensors).numpy()
    assert relative_error(found, wanted) <= FORWARD_BAR
    assert relative_error(base, wanted) > 0.01


def test_diffusers_reads_files_for_comfyui(tmp_path):
    loaders = pytest.importorskip("diffusers.loaders.lora_pipeline", reason="its readers are what is compared with")
    for published, mixin in (
        ("WanTransformer3DModel", loaders.WanLoraLoaderMixin),
        ("UNet2DConditionModel", loaders.StableDiffusionLoraLoaderMixin),
    ):
        pairs = pairs_of(published)
        pairs = {stem: pair for stem, pair in pairs.items() if "patch_embedding" not in stem}  # which it knows not
        (tmp_path / published).mkdir()
        file = write_lora(tmp_path / published, "comfy", pairs, published, shapes_of(published))
        read_by_them = mixin.lora_state_dict(str(tmp_path / published), weight_name=WEIGHTS_NAME)
        tensors, alphas = read_by_them if isinstance(read_by_them, tuple) else (read_by_them, None)
        assert len(tensors) == 2 * len(pairs)
        assert alphas is None or set(alphas.values()) == {CONFIG[published].alpha}
        again = {name: tensor.contiguous().numpy() for name, tensor in tensors.items()}
        save_file(again, tmp_path / f"{published}.safetensors")
        found = read_lora(tmp_path / f"{published}.safetensors", shapes_of(published), published)
        scale = CONFIG[published].scale if alphas else 1.0  # which goes beside the tensors, or is in them
        assert same({stem: Factors(f.a, f.b, scale) for stem, f in found.items()}, pairs)
        assert same(read_lora(file, shapes_of(published), published), pairs)


WAN = "WanTransformer3DModel"


@pytest.fixture(scope="module")
def wan_file(tmp_path_factory):
    """A file of pairs for a tiny Wan, and the pairs."""
    pairs = pairs_of(WAN)
    return write_lora(tmp_path_factory.mktemp("lora"), "peft", pairs, WAN, shapes_of(WAN)), pairs


def respelt(file, to, change, metadata=None):
    """The file with other names or tensors."""
    save_file({change(name): tensor for name, tensor in load_file(file).items()}, to, metadata)
    return to


def test_what_was_written_is_read(wan_file, tmp_path):
    file, pairs = wan_file
    assert same(read_lora(file, shapes_of(WAN), WAN), pairs)
    comfy = write_lora(tmp_path, "comfy", pairs, WAN, shapes_of(WAN))
    names = load_file(comfy).keys()
    assert {"diffusion_model.blocks.0.self_attn.o.lora_down.weight", "diffusion_model.blocks.1.ffn.2.alpha"} <= names
    assert same(read_lora(comfy, shapes_of(WAN), WAN), pairs)
    musubi = respelt(
        comfy, tmp_path / "musubi.safetensors",
        lambda n: "lora_unet_" + ".".join(p.replace(".", "_") for p in _halves(n.removeprefix("diffusion_model."))),
    )  # fmt: skip
    assert same(read_lora(musubi, shapes_of(WAN), WAN), pairs)


def _halves(name):
    """`a.b.lora_down.weight` -> `a.b`, and the rest as it is told apart."""
    at = name.index(".lora_") if ".lora_" in name else name.rindex(".alpha")
    stem, rest = name[:at], name[at + 1 :]
    return [stem, *rest.split(".")]


def test_names_of_old_files_are_read(tmp_path):
    published = "UNet2DConditionModel"
    pairs = {stem: pair for stem, pair in pairs_of(published).items() if ".attn" in stem}

    def old(name):
        stem, half = name.removesuffix(".weight").removeprefix("unet.").rsplit(".", 1)
        stem = stem.removesuffix(".0").replace("attn1.", "attn1.processor.").replace("attn2.", "attn2.processor.")
        return f"unet.{stem}_lora.{'down' if half == 'lora_A' else 'up'}.weight"

    file = write_lora(tmp_path, "peft", pairs, published, shapes_of(published))
    file = respelt(file, tmp_path / "old.safetensors", old)
    assert "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.up.weight" in load_file(file)
    found = read_lora(file, shapes_of(published), published)  # without a scale, it is 1
    scale = CONFIG[published].scale
    assert same({stem: Factors(f.a, f.b, scale * f.scale) for stem, f in found.items()}, pairs)


def test_scales_are_those_of_the_metadata(wan_file, tmp_path):
    file, pairs = wan_file
    beside = respelt(file, tmp_path / "adapter_model.safetensors", lambda n: f"base_model.model.{n[12:]}")
    stem = "blocks.0.attn1.to_q"
    for config, scales in (
        ({"lora_alpha": 6, "r": 3}, (2.0, 2.0)),
        ({"lora_alpha": 6, "alpha_pattern": {"attn1.to_q": 12}}, (4.0, 2.0)),
        ({"lora_alpha": 6, "use_rslora": True}, (6 / 3**0.5, 6 / 3**0.5)),
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        found = read_lora(beside, shapes_of(WAN), WAN)
        assert (found[stem].scale, found["proj_out"].scale) == pytest.approx(scales)
    assert pairs[stem].scale == 2.0


def test_a_lora_for_another_base_is_refused(wan_file, tmp_path):
    file, pairs = wan_file

    def refused(tensors, message):
        save_file(tensors, tmp_path / "x.safetensors")
        with pytest.raises(ValueError, match=message) as caught:
            read_lora(tmp_path / "x.safetensors", shapes_of(WAN), WAN)
        assert "\n" not in str(caught.value)

    good = load_file(file)
    stem = "transformer.blocks.0.attn1.to_q"
    refused({}, "it holds no pairs")
    refused(good | {"transformer.blocks.0.attn1.to_qq.lora_A.weight": np.zeros((3, 32), np.float32)},
            "not a LoRA for a WanTransformer3DModel: 1 without a place in it: transformer.blocks.0.attn1.to_qq.lora_A"
            r".weight .nearest: blocks.0.attn1.to_q.lora_A.weight")  # fmt: skip
    refused(good | {f"{stem}.dora_scale": np.zeros(3, np.float32)}, "without a place in it: .*dora_scale")
    refused(
        {n: t for n, t in good.items() if n != f"{stem}.lora_B.weight"}, "1 with one half of a pair: blocks.0.attn1"
    )
    refused(good | {f"{stem}.lora_A.weight": np.zeros((3, 31), np.float32)},
            r"1 of another shape: blocks.0.attn1.to_q \[32, 3\] x \[3, 31\], wanted \[32, 32\] together")  # fmt: skip
    refused(good | {f"{stem}.lora_A.weight": np.zeros((4, 32), np.float32)}, "1 of another shape")
    with pytest.raises(ValueError, match=r"without a place in it: .* and \d+ more"):
        read_lora(file, shapes_of("UNet2DConditionModel"), "UNet2DConditionModel")
    comfy = write_lora(tmp_path, "comfy", pairs, WAN, shapes_of(WAN))
    save_file(load_file(comfy) | good, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="two tensors for "):
        read_lora(tmp_path / "x.safetensors", shapes_of(WAN), WAN)


@pytest.mark.parametrize(
    ("name", "spelt", "stem"),
    [
        ("Wan2.1-I2V-14B", "diffusion_model.blocks.39.cross_attn.k_img.lora_{}.weight", "blocks.39.attn2.add_k_proj"),
        (
            "stable-diffusion-v1-5",
            "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_attn2_to_out_0.lora_{}.weight",
            "up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_out.0",
        ),
        (
            "animatediff-motion-adapter-v1-5-3",
            "unet.down_blocks.0.motion_modules.1.transformer_blocks.0.attn1.processor.to_v_lora.{}.weight",
            "down_blocks.0.motion_modules.1.transformer_blocks.0.attn1.to_v",
        ),
        (
            "animatediff-motion-adapter-v1-5-3",
            "up_blocks.3.motion_modules.2.temporal_transformer.transformer_blocks.0.attention_blocks.1.processor"
            ".to_out_lora.{}.weight",
            "up_blocks.3.motion_modules.2.transformer_blocks.0.attn2.to_out.0",
        ),
    ],
    ids=["Wan", "kohya", "motion", "AnimateDiff"],
)
def test_names_of_full_size_files_mean_one_matrix(name, spelt, stem, tmp_path):
    options = published_config(name)
    family = FAMILIES[options["_class_name"]]
    shapes = matrix_shapes(family, family.config(options))
    rows, columns = shapes[stem]
    halves = {"down": np.ones((1, columns), np.float32), "up": np.ones((rows, 1), np.float32)}
    save_file({spelt.format(half): tensor for half, tensor in halves.items()}, tmp_path / "x.safetensors")
    assert read_lora(tmp_path / "x.safetensors", shapes, family.published).keys() == {stem}
    flat = [stem.replace(".", "_") for stem in shapes]
    assert len(set(flat)) == len(flat)


@pytest.mark.parametrize(
    ("published", "spelt"),
    [
        ("CogVideoXTransformer3DModel", "transformer.transformer_blocks.0.attn1.to_q.lora_A.weight"),
        ("UNetMotionModel", "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0.alpha"),
        ("UNetSpatioTemporalConditionModel", "diffusion_model.middle_block.1.time_stack.0.attn2.to_k.lora_up.weight"),
    ],
)
def test_files_for_comfyui_come_back(published, spelt, tmp_path):
    """With their scale, wherever it is written."""
    pairs, shapes = pairs_of(published), shapes_of(published)
    file = write_lora(tmp_path, "comfy", pairs, published, shapes)
    assert spelt in load_file(file)
    assert same(read_lora(file, shapes, published), pairs)


def test_motion_modules_are_named_as_animatediff_evolved_reads_them(tmp_path):
    """It passes over what has no "temporal" in it, takes every other tensor for half a pair, and knows no scale."""
    published = "UNetMotionModel"
    pairs, shapes = pairs_of(published), shapes_of(published)
    tensors = load_file(write_lora(tmp_path, "comfy", pairs, published, shapes))
    place = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.1.processor"
    assert {f"{place}.to_q_lora.down.weight", f"{place}.to_out_lora.up.weight"} <= tensors.keys()
    patched = {}
    for name in tensors:
        if "temporal" in name and "up." not in name:
            there = name.replace("processor.", "").replace("_lora", "").replace("down.", "").replace("up.", "")
            there = there if "to_out.0." in there else there.replace("to_out.", "to_out.0.")
            patched[there] = tensors[name.replace(".down.", ".up.")] @ tensors[name]
    adapter = {f"{stem}.weight": pair for stem, pair in pairs.items() if "motion_modules" in stem}
    assert patched.keys() == {MOTION_MODULES.rename(name, {}) for name in adapter}
    for name, pair in adapter.items():
        np.testing.assert_allclose(patched[MOTION_MODULES.rename(name, {})], pair.product(), rtol=1e-5, atol=1e-6)


def test_names_for_comfyui_are_those_of_the_authors_file():
    """Of the full SVD: every matrix of its UNet has a name of its own, and a known one has it."""
    options = published_config("stable-video-diffusion-img2vid-xt")
    family = FAMILIES[options["_class_name"]]
    shapes = matrix_shapes(family, family.config(options))
    names = {stem: spelling.name for stem, spelling in comfy_spellings(shapes, family.published).items()}
    assert len(set(names.values())) == len(shapes) == len(names)
    for stem, name in (
        ("up_blocks.3.attentions.2.temporal_transformer_blocks.0.ff_in.net.0.proj",
         "output_blocks.11.1.time_stack.0.ff_in.net.0.proj"),
        ("down_blocks.1.downsamplers.0.conv", "input_blocks.6.0.op"),
        ("up_blocks.0.upsamplers.0.conv", "output_blocks.2.1.conv"),
        ("up_blocks.1.upsamplers.0.conv", "output_blocks.5.2.conv"),
        ("mid_block.resnets.1.temporal_res_block.conv2", "middle_block.2.time_stack.out_layers.3"),
    ):  # fmt: skip
        assert names[stem] == f"diffusion_model.{name}"


@pytest.mark.parametrize("published", ["LatteTransformer3DModel", "UNet3DConditionModel"])
def test_classes_that_comfyui_has_not_are_refused(published, tmp_path):
    with pytest.raises(ValueError, match=f"--format comfy: nothing in ComfyUI is known to read {published}, only"):
        write_lora(tmp_path, "comfy", pairs_of(published), published, shapes_of(published))


def test_a_lora_put_into_an_import_is_an_import(wan_file, tmp_path, capsys):
    file, pairs = wan_file
    _, component = adapted(WAN)
    base = Component(component.family, component.config, without(component))
    for name in ("transformer", "transformer_2"):
        write(base, tmp_path / "pipeline" / name)
    index = {name: ["diffusers", WAN] for name in ("transformer", "transformer_2")}
    (tmp_path / "pipeline/model_index.json").write_text(json.dumps(index))
    import_folder(tmp_path / "pipeline", tmp_path / "base")
    words = ["import", str(file), "--out", str(tmp_path / "run"), "--scale", "0.5", "--base"]
    assert main([*words, str(tmp_path / "base")]) == 2
    assert "has transformer and transformer_2; name one" in capsys.readouterr().err
    assert main([*words, f"{tmp_path / 'base'}:transformer"]) == 0
    assert f"transformer: {len(pairs)} matrices changed" in capsys.readouterr().out
    for name, found in open_imported(tmp_path / "run").items():
        write(found, tmp_path / "out" / name)
    wanted = to_published(component, merged(component.params, 0.5 * CONFIG[WAN].scale))
    found = values(tmp_path / "out/transformer")
    for name, tensor in wanted.items():
        np.testing.assert_allclose(found[name], tensor, rtol=0, atol=1e-6)
    before = values(tmp_path / "pipeline/transformer")
    assert {n for n in found if not np.array_equal(found[n], before[n])} == {f"{stem}.weight" for stem in pairs}
    kept = tmp_path / "run/weights/transformer_2/diffusion_pytorch_model.safetensors"
    assert kept.samefile(tmp_path / "base/weights/transformer_2" / kept.name)
    assert records_of(tmp_path / "run")["transformer"]["lora"][0]["scale"] == 0.5
    assert "lora" not in records_of(tmp_path / "base")["transformer"]


def test_what_is_no_base_is_refused(wan_file, tmp_path, capsys):
    file, _ = wan_file
    for words, message in (
        (["import", str(file), "--base", str(tmp_path)], "is not an import"),
        (["import", str(tmp_path), "--base", str(tmp_path)], "with --base a LoRA, a file"),
        (["import", str(tmp_path), "--scale", "2"], "--scale: is for a LoRA; --base must name"),
        (["import", str(file), "--base", str(tmp_path), "--dtype", "bf16"], "--dtype: a LoRA is put into weights"),
    ):
        assert main([*words, "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
