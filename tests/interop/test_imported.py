"""`vdm import`, `vdm export` and what `vdm inspect` says between them, from the command line."""

import json

import jax
import numpy as np
import pytest

from tests.interop.test_component import drawn, rewritten, same_bits, values
from vdm_jax.cli.main import main
from vdm_jax.errors import RunError
from vdm_jax.interop.component import Component, float_type, nested, write
from vdm_jax.interop.exporting.diffusers import export_published
from vdm_jax.interop.exporting.trained import Choices
from vdm_jax.interop.families.unet_motion import MOTION_ADAPTER
from vdm_jax.interop.imported import import_folder, open_imported, records_of
from vdm_jax.sharding import MeshConfig, make_mesh


@pytest.fixture
def component(tmp_path):
    write(drawn(), tmp_path / "component", dtype=float_type("bf16"))
    return tmp_path / "component"


@pytest.fixture
def pipeline(tmp_path):
    """Two networks and a scheduler."""
    folder = tmp_path / "pipeline"
    write(drawn(1), folder / "transformer")
    write(drawn(2), folder / "transformer_2", dtype=float_type("fp16"))
    (folder / "scheduler").mkdir()
    (folder / "scheduler/scheduler_config.json").write_text('{"shift": 3.0}')
    index = {
        "_class_name": "WanPipeline", "boundary_ratio": 0.9, "image_encoder": [None, None],
        "transformer": ["diffusers", "WanTransformer3DModel"], "transformer_2": ["diffusers", "WanTransformer3DModel"],
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    }  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_a_component_goes_back_out_bit_for_bit(component, tmp_path, capsys):
    assert main(["import", str(component), "--out", str(tmp_path / "run")]) == 0
    assert "WanTransformer3DModel, 35,408 parameters, bfloat16" in capsys.readouterr().out
    assert main(["export", str(tmp_path / "run"), "--format", "diffusers", "--out", str(tmp_path / "out")]) == 0
    assert same_bits(values(component), values(tmp_path / "out"))
    assert (component / "config.json").read_text() == (tmp_path / "out/config.json").read_text()


def test_constants_go_back_out_as_they_were_read(tmp_path):
    """Positions of motion modules differ in the last digit from machine to machine, and nothing may change."""
    options = {"block_out_channels": [8], "motion_layers_per_block": 1, "motion_norm_num_groups": 4}
    config = MOTION_ADAPTER.config(options | {"motion_num_attention_heads": 2, "motion_max_seq_length": 4})
    params = {path: np.ones(shape, np.float32) for path, shape in MOTION_ADAPTER.shapes(config).items()}
    write(Component(MOTION_ADAPTER, config, nested(params)), tmp_path / "adapter")

    def nudge(tensors):
        for name in tensors:
            if name.endswith(".pe"):
                tensors[name] = np.nextafter(tensors[name], np.float32(2.0))

    rewritten(tmp_path / "adapter", nudge)
    import_folder(tmp_path / "adapter", tmp_path / "run")
    export_published(tmp_path / "run", tmp_path / "out", Choices())
    assert same_bits(values(tmp_path / "adapter"), values(tmp_path / "out"))


def test_inspect_says_what_was_imported(pipeline, tmp_path, capsys):
    import_folder(pipeline, tmp_path / "run")
    assert main(["inspect", str(tmp_path / "run")]) == 0
    page = capsys.readouterr().out
    assert page.count("35408") == 2
    assert "WanTransformer3DModel" in page
    assert all(word in page for word in ("transformer_2/stored", "float16", "float32", str(pipeline / "transformer")))


def test_a_wider_dtype_on_the_way_changes_nothing(component, tmp_path):
    import_folder(component, tmp_path / "run", float_type("float32"))
    found = open_imported(tmp_path / "run")["model"]
    assert {leaf.dtype for leaf in jax.tree.leaves(found.params)} == {np.dtype(np.float32)}
    export_published(tmp_path / "run", tmp_path / "out", Choices())
    assert same_bits(values(component), values(tmp_path / "out"))


def test_a_pipeline_goes_back_out_whole(pipeline, tmp_path):
    assert set(import_folder(pipeline, tmp_path / "run")) == {"transformer", "transformer_2"}
    export_published(tmp_path / "run", tmp_path / "out", Choices())
    for name in ("transformer", "transformer_2"):
        assert same_bits(values(pipeline / name), values(tmp_path / "out" / name))
    for name in ("model_index.json", "scheduler/scheduler_config.json"):
        assert (pipeline / name).read_text() == (tmp_path / "out" / name).read_text()


def test_one_component_opens_on_a_mesh(pipeline, tmp_path):
    import_folder(pipeline, tmp_path / "run")
    mesh = make_mesh(MeshConfig(data=1, fsdp=4), jax.devices()[:4])
    (found,) = open_imported(tmp_path / "run", "transformer_2", mesh).values()
    kernel = found.params["patch_out"]["kernel"]
    assert kernel.dtype == np.float16
    assert len(kernel.sharding.device_set) == 4
    np.testing.assert_array_equal(kernel, drawn(2).params["patch_out"]["kernel"].astype(np.float16))
    with pytest.raises(ValueError, match="component: unknown 'transformer_3'; did you mean 'transformer_2'"):
        open_imported(tmp_path / "run", "transformer_3")


def test_files_are_linked_and_nothing_is_converted(component, tmp_path):
    import_folder(component, tmp_path / "run", float_type("float32"))
    (file,) = (tmp_path / "run/weights/model").glob("*.safetensors")
    assert file.samefile(component / file.name)
    assert set(records_of(tmp_path / "run")["model"]["digests"]) == set(values(component))


def test_files_of_another_file_system_are_copied(component, tmp_path, monkeypatch):
    monkeypatch.setattr("os.link", lambda *names: (_ for _ in ()).throw(OSError(18, "Invalid cross-device link")))
    import_folder(component, tmp_path / "run")
    (file,) = (tmp_path / "run/weights/model").glob("*.safetensors")
    assert not file.samefile(component / file.name)
    assert same_bits(values(component), values(tmp_path / "run/weights/model"))


def test_an_import_whose_files_have_changed_is_refused(component, tmp_path, capsys):
    run = tmp_path / "run"
    import_folder(component, run)
    assert main(["inspect", str(run), "--verify"]) == 0
    (file,) = (run / "weights/model").glob("*.safetensors")
    flipped = bytearray(file.read_bytes())
    flipped[-3] ^= 1
    file.write_bytes(flipped)
    with pytest.raises(RunError, match=r"is not what was imported"):
        open_imported(run)
    capsys.readouterr()
    assert main(["inspect", str(run), "--verify"]) == 1
    assert "is not what was imported" in capsys.readouterr().out
    file.write_bytes(flipped[:-3])
    with pytest.raises(RunError, match="it is cut off"):
        open_imported(run)
    file.write_bytes(flipped)
    rewritten(run / "weights/model", lambda tensors: tensors.update(more=tensors["proj_out.bias"]))
    with pytest.raises(RunError, match="is not what was imported: more has come"):
        open_imported(run)
    (run / "weights/model/config.json").unlink()
    with pytest.raises(RunError, match="is not what was imported: .*holds no config.json"):
        open_imported(run)


def test_a_part_whose_weights_are_pickles_is_not_passed_over(pipeline, tmp_path):
    (file,) = (pipeline / "transformer_2").glob("*.safetensors")
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(ValueError, match=f"{file.stem}.bin, a pickle, which is not read"):
        import_folder(pipeline, tmp_path / "run")


def test_what_cannot_be_done_is_said(component, pipeline, tmp_path, capsys):
    run = str(tmp_path / "run")
    assert main(["import", str(component), "--out", run]) == 0
    for words, message in (
        (["import", str(component), "--out", run], "exists already"),
        (["import", str(tmp_path / "nothing"), "--out", run], "is not a directory"),
        (["import", str(component), "--out", run, "--dtype", "bf61"], "dtype: unknown 'bf61'; did you mean 'bf16'"),
        (["export", run, "--out", str(component)], "exists already"),
        (["export", run, "--out", str(tmp_path / "x"), "--weights", "ema"], "was imported, not trained"),
        (["export", run, "--out", str(tmp_path / "x"), "--format", "comfi"], "--format: unknown 'comfi'"),
        (["parity", "WanTransformer"], "did you mean 'WanTransformer3DModel'"),
    ):
        capsys.readouterr()
        assert main(words) == 2
        assert message in capsys.readouterr().err
    index = json.loads((pipeline / "model_index.json").read_text())
    index["transformer"][1] = "NoSuchModel"
    (pipeline / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"transformer \(NoSuchModel\): not known here"):
        import_folder(pipeline, tmp_path / "other")
    assert not (tmp_path / "other").exists()
