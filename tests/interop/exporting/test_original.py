"""`vdm export --format original`: files of the models' authors, as they were and of what was trained here."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tests.interop.exporting.exported_runs import dit_config, write_run
from tests.interop.originals.test_layouts import written
from tests.interop.test_component import same_bits
from vdm_jax.cli.main import main
from vdm_jax.interop.files.tensors import read_header
from vdm_jax.interop.imported import open_imported
from vdm_jax.interop.originals.animatediff import MOTION_MODULES
from vdm_jax.interop.originals.wan import WAN_22_AUTOENCODER, WAN_TRANSFORMER
from vdm_jax.training.checkpoint import restore_weights

UNET = {
    "kind": "unet", "channels": 3, "widths": (32,), "layers": (1,), "heads": (2,), "depth": (1,), "groups": 32,
    "temporal": "motion", "motion_heads": (8,), "motion_depth": (1,), "motion_mid_depth": 1,
}  # fmt: skip


def tensors(file):
    return {name: stored.read() for name, stored in read_header(file).items()}


@pytest.mark.parametrize("original", [WAN_TRANSFORMER, WAN_22_AUTOENCODER], ids=lambda o: o.component)
def test_an_import_goes_back_into_the_file_of_its_authors(original, tmp_path, capsys):
    file = written(original, tmp_path)
    assert main(["import", str(file), "--out", str(tmp_path / "run")]) == 0
    words = ["export", str(tmp_path / "run"), "--format", "original", "--out"]
    assert main([*words, str(tmp_path / "out")]) == 0
    assert f"model: {original.title}" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.md", "model.safetensors"}
    assert same_bits(tensors(tmp_path / "out/model.safetensors"), tensors(file))
    assert main([*words, str(tmp_path / "small"), "--shard-size", "0.00001", "--dtype", "bf16"]) == 0
    assert len(list((tmp_path / "small").glob("model-*.safetensors"))) > 1


def test_motion_modules_that_were_trained_here_go_out_alone(tmp_path, capsys):
    """With their positions twice, as their authors have them."""
    raw = dit_config() | {"model": UNET}
    write_run(tmp_path / "run", raw)
    assert main(["export", str(tmp_path / "run"), "--format", "original", "--out", str(tmp_path / "out")]) == 0
    assert f"motion_adapter: {MOTION_MODULES.title}" in capsys.readouterr().out
    file = tmp_path / "out/motion_adapter.safetensors"
    names = read_header(file).keys()
    place = "mid_block.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks"
    assert {f"{place}.{i}.pos_encoder.pe" for i in range(2)} <= names
    assert all("temporal_transformer" in name for name in names)
    assert main(["import", str(file), "--out", str(tmp_path / "again")]) == 0
    back = flatten_dict(open_imported(tmp_path / "again")["model"].params)
    trained = restore_weights((tmp_path / "run/checkpoints").absolute()).state["backbone"]
    wanted = {path: leaf for path, leaf in flatten_dict(trained).items() if "attention_time" in path}
    assert back.keys() == wanted.keys()
    jax.tree.map(np.testing.assert_array_equal, back, wanted)


def test_what_a_reader_would_take_for_another_network_is_refused(tmp_path, capsys):
    write_run(tmp_path / "groups", dit_config() | {"model": UNET | {"motion_heads": (4,)}})
    write_run(tmp_path / "wan", dit_config(qk_norm="all", text_projection="mlp"))
    for run, why in (
        ("groups", "--format original: heads: (4,), but AnimateDiff's motion modules of their authors is read as (8,)"),
        ("wan", "not the Wan transformer of its authors: dim: 0 must be 1 or more"),
    ):
        assert main(["export", str(tmp_path / run), "--format", "original", "--out", str(tmp_path / "out")]) == 2
        assert why in capsys.readouterr().err
