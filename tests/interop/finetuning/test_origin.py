"""Weights that a run starts from: what is taken from where they are, what may be stated, and what is refused."""

import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tests.interop.exporting.exported_runs import dit_config, write_run
from tests.interop.test_component import drawn
from vdm_jax.diffusion import RectifiedFlow
from vdm_jax.errors import RunError
from vdm_jax.interop.component import float_type, write
from vdm_jax.interop.finetuning.origin import digest_of, find_origin, read_origin, settled, write_origin
from vdm_jax.interop.imported import import_folder
from vdm_jax.training.run import assemble
from vdm_jax.training.run_config import complete, run_config_from

CONFIG = {
    "data": {"frames": 2, "height": 4, "width": 4},
    "train": {"steps": 2, "batch_size": 4, "tokens": 3},
    "mesh": {"data": 1, "fsdp": 2},
}
SCHEDULER = {
    "_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "use_flow_sigmas": True,
    "flow_shift": 3.0,
}  # fmt: skip


def config(init, **sections):
    return {**CONFIG, "init": str(init), **sections}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An imported pipeline of two transformers, and one that was imported by itself."""
    folder = tmp_path_factory.mktemp("origin")
    pipeline = folder / "pipeline"
    for seed, name in enumerate(("transformer", "transformer_2")):
        write(drawn(seed), pipeline / name, dtype=float_type("bf16"))
    (pipeline / "scheduler").mkdir()
    (pipeline / "scheduler/scheduler_config.json").write_text(json.dumps(SCHEDULER))
    index = {name: ["diffusers", "WanTransformer3DModel"] for name in ("transformer", "transformer_2")}
    index["scheduler"] = ["diffusers", "UniPCMultistepScheduler"]
    (pipeline / "model_index.json").write_text(json.dumps(index))
    import_folder(pipeline, folder / "pair")
    import_folder(pipeline / "transformer", folder / "alone")
    return folder


def test_network_and_process_are_those_of_the_weights(folder):
    found, origin = settled(config(f"{folder / 'pair'}:transformer_2"))
    run = run_config_from(found)
    assert run.networks.model == drawn().config
    assert run.process == RectifiedFlow(shift=3.0)
    assert (run.networks.tokens, run.init) == (3, origin.init)
    assert origin.digest == digest_of(folder / "pair", "transformer_2") != digest_of(folder / "pair", "transformer")
    assert origin.published["class"] == "WanTransformer3DModel"
    again, _ = settled(complete(found))
    assert complete(again) == complete(found)


def test_how_a_network_computes_and_how_it_is_trained_may_be_stated(folder):
    sections = {"model": {"kind": "wan", "remat": "attention"}, "process": {"shift": 5.0, "times": {"kind": "uniform"}}}
    run = run_config_from(settled(config(f"{folder / 'pair'}:transformer", **sections))[0])
    assert (run.networks.model.remat, run.networks.model.dim) == ("attention", 32)
    assert (run.process.shift, type(run.process.times).__name__) == (5.0, "Uniform")


@pytest.mark.parametrize(
    ("init", "sections", "message"),
    [
        ("pair", {}, "has transformer and transformer_2; name one, as in .*pair:transformer"),
        ("pair:transformer_3", {}, "component of .*pair: unknown 'transformer_3'; did you mean 'transformer_2'"),
        ("pear", {}, "config.init: no such run: unknown '.*pear'; did you mean '.*pair'"),
        ("pipeline", {}, "config.init: .*pipeline is not a run, neither trained nor imported"),
        ("alone", {}, "config.process: missing; .*alone has no scheduler"),
        ("pair:transformer", {"model": {"kind": "latte"}}, "config.model.kind: 'latte', but the .* have 'wan'"),
        ("pair:transformer", {"model": {"dim": 64}}, "config.model.dim: 64, but the weights .* have 32"),
        ("pair:transformer", {"model": {"dmi": 64}}, "config.model.dmi: unknown 'dmi'; did you mean 'dim'"),
        ("pair:transformer", {"process": {"kind": "vp"}}, "config.process.kind: 'vp', but .* have 'recti"),
        ("pair:transformer", {"text": {"dim": 24}}, "config.text: must be None"),
        ("pair:transformer", {"train": {"steps": 2}}, "config.train.tokens: 0 must be the text tokens of a clip"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_the_weights_is_refused(folder, init, sections, message):
    with pytest.raises(ValueError, match=message) as caught:
        run_config_from(settled(config(folder / init, **sections))[0])
    assert "\n" not in str(caught.value)


def test_weights_come_onto_the_mesh_as_masters_and_averages(folder):
    found, origin = settled(config(f"{folder / 'pair'}:transformer"))
    plan = assemble(run_config_from(found), devices=jax.devices()[:2]).plan
    params = {**plan.init(0).params, **origin.params(plan)}
    state = plan.start_from(params)
    kernel = state.params["backbone"]["patch_in"]["kernel"]
    assert kernel.dtype == np.float32
    assert len(kernel.sharding.device_set) == 2
    wanted = flatten_dict(drawn(0).params)
    for weights in (state.params, *state.ema.values()):
        for path, leaf in flatten_dict(weights["backbone"]).items():
            np.testing.assert_array_equal(leaf, wanted[path].astype(jax.numpy.bfloat16).astype(np.float32))
    assert not state.params["null"]["mask"].any()


def test_a_run_remembers_where_it_came_from(folder, tmp_path):
    found, origin = settled(config(f"{folder / 'pair'}:transformer"))
    assert read_origin(tmp_path) is None
    write_origin(tmp_path, origin)
    assert read_origin(tmp_path) == find_origin(origin.init)
    assert settled(complete(found), tmp_path) == (settled(complete(found))[0], origin)
    (tmp_path / "origin.json").write_text('{"init": "x"}')
    with pytest.raises(RunError, match="origin.json: damaged"):
        read_origin(tmp_path)


def test_a_network_may_read_more_than_the_weights_did(folder, tmp_path):
    """Of an import and of a trained run: what is new gets zero rows, all else is as it was, prompts may be shorter."""
    trained = {**dit_config(text_dim=6), "text": None, "train": {"steps": 2, "batch_size": 4, "tokens": 3}}
    write_run(tmp_path / "run", trained)
    for init, rest in ((f"{folder / 'pair'}:transformer", CONFIG), (str(tmp_path / "run"), trained)):
        rest = {**rest, "mesh": CONFIG["mesh"], "init": init, "train": {**rest["train"], "tokens": 1}}
        asked = {**rest, "model": {"concat_channels": 2}}
        with pytest.raises(ValueError, match="config.model.concat_channels: 2, but the weights of .* have 0"):
            settled(asked)
        found, origin = settled({**asked, "widen": ("concat_channels",)})
        assert (origin.wider, origin.published, origin.place()) == ("concat_channels", None, None)
        plan = assemble(run_config_from(found), devices=jax.devices()[:2]).plan
        wide = plan.start_from({**plan.init(0).params, **origin.params(plan, ("null",))}).params["backbone"]
        same, narrow = settled({**rest, "model": {}})
        plan = assemble(run_config_from(same), devices=jax.devices()[:2]).plan
        before, channels = narrow.params(plan, ("null",))["backbone"], run_config_from(same).networks.model.channels
        kernels = [np.asarray(params["patch_in"]["kernel"]) for params in (before, wide)]
        old, new = (
            kernel.reshape(-1, each, kernel.shape[-1]) for kernel, each in zip(kernels, (channels, channels + 2))
        )
        np.testing.assert_array_equal(new[:, :channels], old)
        assert not new[:, channels:].any()
        before, wide = flatten_dict(before), flatten_dict(wide)
        assert before.keys() == wide.keys()
        for path in before.keys() - {("patch_in", "kernel")}:
            np.testing.assert_array_equal(np.asarray(before[path], np.float32), wide[path])
        write_origin(tmp_path, origin)
        assert settled(complete(found), tmp_path)[1] == origin
        (tmp_path / "origin.json").unlink()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"widen": ("concat_chanels",)}, "config.widen: unknown 'concat_chanels'; did you mean 'concat_channels'"),
        ({"widen": "scalars"}, r"config.widen: .* names in brackets, as in \('concat_channels',\)"),
        ({"widen": ("scalars",)}, "config.widen: WanConfig reads no scalars, or each by parameters of its own"),
        ({"widen": ("concat_channels",), "model": {"dim": 64}}, "config.model.dim: 64, but the weights .* have 32"),
    ],
)
def test_what_cannot_be_widened_is_refused(folder, sections, message):
    with pytest.raises(ValueError, match=message) as caught:
        settled(config(f"{folder / 'pair'}:transformer", **sections))
    assert "\n" not in str(caught.value)
