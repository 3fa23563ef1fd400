"""The configs of fine-tuning and the published models they are for: of these, what is published but the weights."""

import dataclasses
import json
from pathlib import Path

import pytest

from tests.interop.parity import FIXTURES, published
from vdm_jax.cli.config_file import load_config
from vdm_jax.interop.families.known import FAMILIES
from vdm_jax.training.run_config import run_config_from

CONFIGS = Path(__file__).parents[2] / "configs"
SD, ADAPTER = "stable-diffusion-v1-5", "animatediff-motion-adapter-v1-5-3"
CASES = [
    ("finetune_wan.py", ["Wan2.1-T2V-1.3B"], "wan_unipc_480p"),
    ("finetune_wan.py", ["Wan2.1-I2V-14B"], "wan_unipc_720p"),
    ("finetune_cogvideox.py", ["CogVideoX-2b"], "cogvideox_2b_ddim"),
    ("finetune_cogvideox.py", ["CogVideoX-5b-I2V"], "cogvideox_5b_dpm"),
    ("finetune_cogvideox.py:1.5", ["CogVideoX1.5-5B"], "cogvideox_5b_dpm"),
    ("finetune_cogvideox.py:1.5-i2v", ["CogVideoX1.5-5B-I2V"], "cogvideox_5b_dpm"),
    ("finetune_latte.py", ["Latte-1"], "ddim_pixels"),
    ("finetune_unet.py", [SD, ADAPTER], "animatediff_ddim"),
    ("finetune_unet.py:modelscope", ["text-to-video-ms-1.7b"], "modelscope_ddim"),
    ("finetune_unet.py:svd", ["stable-video-diffusion-img2vid-xt"], "svd_euler"),
]


def imported(path, names, scheduler):
    """What `vdm import` keeps of a model, without weights."""
    components = {}
    for number, name in enumerate(names):
        config = published(name)
        record = {"class": config["_class_name"], "config": config, "digests": {}, "source": name}
        components[f"network{number}"] = record
    folder = path / "published/scheduler"
    folder.mkdir(parents=True)
    text = (FIXTURES / "schedulers" / f"{scheduler}.json").read_text()
    (folder / "scheduler_config.json").write_text(text)
    (path / "imported.json").write_text(json.dumps({"components": components}))
    return path


@pytest.mark.parametrize(("config", "names", "scheduler"), CASES, ids=lambda value: str(value))
def test_a_published_model_can_be_started_from(tmp_path, config, names, scheduler):
    run = imported(tmp_path / "run", names, scheduler)
    model = run_config_from(load_config(str(CONFIGS / config), [("init", str(run))])).networks.model
    own = FAMILIES[published(names[0])["_class_name"]].config(published(names[0]))
    if len(names) == 2:
        assert (model.temporal, model.motion_mid_depth) == ("motion", 0)
        model = dataclasses.replace(model, temporal="none", motion_heads=(), motion_depth=())
        own = dataclasses.replace(own, max_frames=model.max_frames)
    assert dataclasses.replace(model, remat="none") == own


@pytest.mark.parametrize("variant", ["animatediff", "modelscope", "svd"])
def test_a_variant_of_the_unets_can_be_planned_without_weights(variant):
    run = run_config_from(load_config(f"{CONFIGS / 'finetune_unet.py'}:{variant}"))
    assert run.networks.given(*run.clip_shape[:3]).keys() >= {"tokens"}
    with pytest.raises(ValueError, match="variant: unknown 'svdd'; did you mean 'svd'"):
        load_config(f"{CONFIGS / 'finetune_unet.py'}:svdd")
