"""`vdm export` of trained runs: which class, whole pipelines, the scheduler, the card, the folder for PyTorch alone."""

import dataclasses
import hashlib
import json
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from tests.interop.exporting.exported_runs import STEP, dit_config, shipped, write_run
from tests.interop.test_component import same_bits, values
from tests.training.dit_runs import tokenizer
from vdm_jax.cli.main import main
from vdm_jax.diffusion import DDIM
from vdm_jax.interop.cases import CASES
from vdm_jax.interop.component import Component, nested, read, write
from vdm_jax.interop.exporting.diffusers import published_class, published_component
from vdm_jax.interop.families.known import FAMILIES
from vdm_jax.interop.families.unet import UNET, UNET_2D
from vdm_jax.interop.families.wan import WAN
from vdm_jax.interop.imported import import_folder, open_imported
from vdm_jax.interop.parity import QUICK, open_published, relative_error
from vdm_jax.models.networks import BACKBONES
from vdm_jax.models.unet import UNetConfig
from vdm_jax.sampling import Hooks, guided, make_denoiser, sample
from vdm_jax.training.checkpoint import restore_weights

AS_WAN = {"qk_norm": "all", "text_projection": "mlp"}
PROMPTS = ["red", "blue left"]
SAMPLE = """
import sys
import numpy as np
import torch
from sample import load

model = load(".")
noise = torch.from_numpy(np.load("noise.npy"))
np.save("clips.npy", model.sample(sys.argv[1:], noise=noise).numpy())
drawn = model.sample(sys.argv[1:2], seed=1, steps=2, eta=1.0)
assert drawn.shape == (1, *noise.shape[1:]) and bool(drawn.isfinite().all())
others = {"jax", "flax", "vdm_jax", "diffusers", "transformers"} & sys.modules.keys()
assert not others, others
"""


@pytest.fixture(scope="module")
def dit(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "tiny"
    return path, write_run(path, dit_config(**AS_WAN))


def export(run, out, *words):
    return main(["export", str(run), "--out", str(out), *map(str, words)])


def clips_of(path, run, noise):
    """What our sampler makes of the weights, from `noise`."""
    config, process = run.config.sample, run.config.process
    params = restore_weights((path / "checkpoints").absolute()).state
    bound = Hooks(edit_x0=lambda x0, x_t, info: jax.numpy.clip(x0, -1.0, 1.0))

    def make(params, text, null, x_T):
        networks = run.plan.networks.merge(params)
        cond = networks["text"](text["text_ids"], text["text_mask"])
        empty = networks["text"](null["text_ids"], null["text_mask"])
        scale = config.scale(run.config.clip_shape[0])
        denoiser = guided(make_denoiser(process, networks["backbone"]), scale, empty, config.guidance_rescale)
        return sample(denoiser, process, x_T, process.levels(config.steps), cond, solver=DDIM(), hooks=bound)

    words = tokenizer().encode(PROMPTS), tokenizer().encode([""])
    return np.asarray(jax.jit(make, compiler_options=QUICK)(params, *words, noise))


def same_clips(path, run, out):
    """Holds what `sample.py` of the folder `out` makes, in a process of its own, against our sampler; returns ours."""
    noise = np.random.default_rng(0).standard_normal((len(PROMPTS), *run.config.clip_shape)).astype(np.float32)
    np.save(out / "noise.npy", noise)
    done = subprocess.run(
        [sys.executable, "-c", SAMPLE, *PROMPTS], cwd=out, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    ours, theirs = clips_of(path, run, noise), np.load(out / "clips.npy")
    assert relative_error(theirs, ours) < 1e-4
    assert np.abs(ours[0] - ours[1]).max() > 1e-3
    return ours


def test_a_dit_goes_out_with_its_own_pytorch_code_and_makes_the_same_clips(dit, tmp_path, capsys):
    pytest.importorskip("torch", reason="the folder is for PyTorch")
    path, run = dit
    out = tmp_path / "out"
    assert export(path, out, "--format", "torch") == 0
    assert "transformer: DiT, read by model.py" in capsys.readouterr().out
    files = {"README.md", "model.py", "sample.py", "sampling.json", "transformer", "text_encoder", "tokenizer"}
    assert {file.name for file in out.iterdir()} == files
    ours = same_clips(path, run, out)
    assert np.abs(ours).min() < 1.0  # not all of it cut off
    import_folder(out / "transformer", tmp_path / "again")
    back = open_imported(tmp_path / "again")["model"]
    assert back.config == run.config.networks.model
    wanted = restore_weights((path / "checkpoints").absolute()).state["backbone"]
    jax.tree.map(np.testing.assert_array_equal, back.params, wanted)


def test_a_unet_that_no_class_is_goes_out_with_its_own_pytorch_code(tmp_path, capsys):
    pytest.importorskip("torch", reason="the folder is for PyTorch")
    model = {"kind": "unet", "channels": 3, "widths": (8,), "layers": (1,), "heads": (2,), "depth": (0,), "groups": 4}
    motion = {"temporal": "motion", "motion_heads": (4,), "motion_depth": (1,), "eps_up": (1e-3,)}
    path, out = tmp_path / "run", tmp_path / "out"
    run = write_run(path, dit_config() | {"model": model | motion})
    assert export(path, out) == 2
    line = capsys.readouterr().err
    assert "scalars, eps_down, eps_up: UNetMotionModel has none" in line
    assert "--format torch takes it as it is" in line
    assert export(path, out, "--format", "torch") == 0
    assert "unet: UNet, read by model.py" in capsys.readouterr().out
    same_clips(path, run, out)
    import_folder(out / "unet", tmp_path / "again")
    back = open_imported(tmp_path / "again")["model"]
    assert back.config == run.config.networks.model
    wanted = restore_weights((path / "checkpoints").absolute()).state["backbone"]
    jax.tree.map(np.testing.assert_array_equal, back.params, wanted)


def test_features_of_the_empty_prompt_go_along_where_prompts_are_encoded_elsewhere(tmp_path):
    torch = pytest.importorskip("torch", reason="the folder is for PyTorch")
    raw = dit_config(text_dim=6, concat_channels=2) | {"text": None, "train": {"steps": STEP, "tokens": 5}}
    raw["sample"] = {"steps": 3, "guidance": 3.0, "guidance_also": ("concat",)}
    run = write_run(tmp_path / "run", raw)
    assert export(tmp_path / "run", tmp_path / "out", "--format", "torch") == 0
    model = shipped().load(tmp_path / "out")
    assert set(model.null) == {"tokens"}  # the network was told of no mask
    assert model.null["tokens"].shape == (1, 5, 6)
    tokens = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    concat = torch.randn(2, *run.config.clip_shape[:3], 2, generator=torch.Generator().manual_seed(1))
    guided_clips, plain = (model.sample(count=2, tokens=tokens, concat=concat, guidance=g) for g in (None, 1.0))
    assert guided_clips.shape == (2, *run.config.clip_shape)
    assert (guided_clips - plain).abs().max() > 1e-3
    nothing = model.null["tokens"].expand(2, -1, -1)  # so that guidance is towards the picture alone
    guided_clips, plain = (model.sample(count=2, tokens=nothing, concat=concat, guidance=g) for g in (None, 1.0))
    assert (guided_clips - plain).abs().max() > 1e-3
    model.settings["guidance_also"] = []
    torch.testing.assert_close(model.sample(count=2, tokens=nothing, concat=concat), plain)


def test_a_dit_that_is_a_wan_goes_out_as_one(dit, tmp_path, capsys):
    path, _ = dit
    assert export(path, tmp_path / "out", "--shard-size", 0.00002) == 0
    shown = capsys.readouterr().out
    assert "WanTransformer3DModel" in shown
    assert "its class takes no mask" in shown
    assert "open_network(TextEncoder, 'text_encoder')" in shown
    assert {"model.py", "text_encoder", "tokenizer"} <= {file.name for file in (tmp_path / "out").iterdir()}
    scheduler = json.loads((tmp_path / "out/scheduler/scheduler_config.json").read_text())
    assert scheduler["_class_name"] == "FlowMatchEulerDiscreteScheduler"
    assert len(list((tmp_path / "out").glob("diffusion_pytorch_model-*-of-*.safetensors"))) > 2
    assert (tmp_path / "out/diffusion_pytorch_model.safetensors.index.json").is_file()
    found = read(tmp_path / "out")
    assert found.family is WAN
    kernel = restore_weights((path / "checkpoints").absolute()).state["backbone"]["units"]["block"]["mlp"]["up"][
        "kernel"
    ]
    np.testing.assert_array_equal(found.params["blocks"]["mlp"]["up"]["kernel"], kernel)


def test_the_card_says_where_the_weights_come_from(dit, tmp_path):
    path, _ = dit
    certificate = tmp_path / "parity.json"
    certificate.write_text("[]")
    assert export(path, tmp_path / "out", "--format", "torch", "--certificate", certificate) == 0
    card = (tmp_path / "out/README.md").read_text()
    for said in (
        "# tiny",
        f"`params` of step {STEP}",
        "nothing: weights drawn at random",
        hashlib.sha256(b"[]").hexdigest(),
        "not stated; whoever publishes these weights states it here",
        "vdm_jax 0.1.0 (abc)",
        '"kind": "rectified_flow"',
    ):
        assert said in card
    assert str(tmp_path) not in card


def test_what_no_class_has_is_named(tmp_path, capsys):
    write_run(tmp_path / "run", dit_config(adaln="per_block", causal=True))
    assert export(tmp_path / "run", tmp_path / "out") == 2
    line = capsys.readouterr().err
    assert "dit: is no WanTransformer3DModel: causal=True (it has False), adaln='per_block' (it has 'single')" in line
    assert "--format torch takes it as it is" in line
    assert line.count("\n") == 1
    assert not (tmp_path / "out").exists()
    for words, message in (
        (["--format", "diffuser"], "--format: unknown 'diffuser'; did you mean 'diffusers'"),
        (["--format", "torch", "--weights", "ema:0.9"], "weights: unknown 'ema:0.9'; allowed: params"),
        (["--format", "torch", "--shard-size", "0"], "shard-size: 0 bytes must be 1 or more"),
        (["--certificate", tmp_path / "none.json"], "certificate: no file"),
    ):
        capsys.readouterr()
        assert export(tmp_path / "run", tmp_path / "out", *words) == 2
        assert message in capsys.readouterr().err
    assert export(tmp_path, tmp_path / "out") == 2
    assert "holds no run" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    assert export(tmp_path / "run", tmp_path / "full", "--format", "torch") == 2
    assert "exists already; choose another folder" in capsys.readouterr().err


@pytest.mark.parametrize("case", [c for c in CASES if c.family.module in {m for _, m in BACKBONES.values()}],
                         ids=lambda case: f"{case.family.published} {case.name}")  # fmt: skip
def test_the_class_of_a_network_follows_from_its_options(case):
    assert published_class(case.family.config(case.published)) is case.family


def test_options_that_a_class_cannot_state_are_named():
    svd = next(case for case in CASES if case.family is FAMILIES["UNetSpatioTemporalConditionModel"])
    config = svd.family.config(svd.published)
    with pytest.raises(ValueError, match="scalars, eps_down, eps_up, projection, groups, eps: UNetSpatioTemporal"):
        published_class(dataclasses.replace(config, scalars=("fps",)))
    pictures = next(case for case in CASES if case.family is FAMILIES["UNet2DConditionModel"])
    config = pictures.family.config(pictures.published)
    with pytest.raises(ValueError, match="max_frames: 7 is no option of UNet2DConditionModel, which has 32"):
        published_class(dataclasses.replace(config, max_frames=7))


def test_what_started_from_the_projects_own_files_still_goes_out_as_the_published_class():
    model = UNetConfig(max_frames=32)
    said = {"class": UNET.published, "config": UNET.published_config(model)}
    assert UNET.config(said["config"]) == model
    trained = SimpleNamespace(model=model, params={"backbone": {}}, origin=SimpleNamespace(published=said))
    assert published_component(trained).family is UNET_2D


TINY_WAN = {
    "patch_size": [1, 2, 2], "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 3, "out_channels": 3,
    "text_dim": 8, "freq_dim": 256, "ffn_dim": 48, "num_layers": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A run that trained the second transformer of an imported pipeline."""
    folder = tmp_path_factory.mktemp("pipeline")
    config = WAN.config(TINY_WAN)
    params = {path: np.ones(shape, np.float32) for path, shape in WAN.shapes(config).items()}
    for name in ("transformer", "transformer_2"):
        write(Component(WAN, config, nested(params)), folder / "published" / name)
    (folder / "published/scheduler").mkdir()
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
    (folder / "published/scheduler/scheduler_config.json").write_text(json.dumps(scheduler))
    entry = ["diffusers", "WanTransformer3DModel"]
    index = {"_class_name": "WanPipeline", "transformer": entry, "transformer_2": entry,
             "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}  # fmt: skip
    (folder / "published/model_index.json").write_text(json.dumps(index))
    import_folder(folder / "published", folder / "import")
    raw = dit_config() | {"init": f"{folder}/import:transformer_2", "text": None, "train": {"steps": STEP, "tokens": 5}}
    raw = {name: value for name, value in raw.items() if name not in ("model", "process")}
    write_run(folder / "tuned", raw)
    return folder


def test_a_run_that_started_from_a_pipeline_goes_out_as_that_pipeline(tuned, tmp_path, capsys):
    out = tmp_path / "out"
    assert export(tuned / "tuned", out) == 0
    assert "transformer_2: WanTransformer3DModel, trained" in capsys.readouterr().out
    assert same_bits(values(out / "transformer"), values(tuned / "published/transformer"))
    assert not same_bits(values(out / "transformer_2"), values(tuned / "published/transformer_2"))
    for name in ("model_index.json", "scheduler/scheduler_config.json", "transformer_2/config.json"):
        assert (out / name).read_text() == (tuned / "published" / name).read_text()
    card = (out / "README.md").read_text()
    assert "transformer_2, `transformer_2`, SHA-256" in card
    assert "WanPipeline.from_pretrained" in card


def test_another_process_than_the_pipelines_brings_its_scheduler(tuned, tmp_path):
    config = json.loads((tuned / "tuned/config.json").read_text())
    config["process"]["shift"] = 5.0
    other = tmp_path / "other"
    other.mkdir()
    for path in (tuned / "tuned").iterdir():
        (other / path.name).symlink_to(path) if path.name != "config.json" else None
    (other / "config.json").write_text(json.dumps(config))
    assert export(other, tmp_path / "out") == 0
    assert json.loads((tmp_path / "out/scheduler/scheduler_config.json").read_text())["shift"] == 5.0


def test_diffusers_opens_the_trained_component_strictly(tuned, tmp_path):
    pytest.importorskip("diffusers", reason="the published class is what it is exported as")
    assert export(tuned / "tuned", tmp_path / "out") == 0
    module = open_published(WAN, tmp_path / "out/transformer_2")
    theirs = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    assert same_bits(theirs, values(tmp_path / "out/transformer_2"))
