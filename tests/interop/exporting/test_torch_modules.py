"""The PyTorch files of an export, in a process that has nothing but them: same output as here for every option."""

import importlib.resources
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.interop.exporting.exported_runs import shipped
from vdm_jax.diffusion.configuration import process_from, process_to_dict
from vdm_jax.interop.component import Component, nested, read, write
from vdm_jax.interop.families.dit import DIT, TEXT, TrainedText
from vdm_jax.interop.families.family import NETWORK
from vdm_jax.interop.families.unet import UNET
from vdm_jax.interop.parity import QUICK, relative_error
from vdm_jax.models.dit import DiTConfig
from vdm_jax.models.text import TextConfig
from vdm_jax.models.unet import UNetConfig

B, T, H, W, L, E = 2, 4, 4, 6, 5, 6
APART = {"attention": "factorised", "rope": False, "positions": "apart", "grid": (T, 4, 4)}
VARIANTS = {
    "full": {"text_dim": E},
    "per_block_pooled": {"adaln": "per_block", "text_dim": E, "pooled_text": True, "patch": (2, 2, 2), "causal": True},
    "factorised": {"attention": "factorised", "text_dim": E, "cross_norm": False, "text_projection": "mlp", "depth": 2},
    "factorised_causal": {"attention": "factorised", "adaln": "per_block", "causal": True, "mlp": "swiglu"},
    "learned": {"rope": False, "positions": "learned", "grid": (T, 2, 3), "qk_norm": "none", "mlp": "geglu"},
    "sincos": {"rope": False, "positions": "sincos", "qk_norm": "all", "mlp": "relu2", "mlp_dim": 24},
    "apart": {**APART, "mlp": "quick_gelu", "depth": 2},
    "conditions": {"classes": 3, "scalars": ("fps", "motion"), "concat_channels": 2, "known_channel": True},
}
UNET_BASE = {"channels": 3, "widths": (8, 16), "layers": (1, 1), "heads": (2, 4), "depth": (1, 0), "text_dim": E,
             "groups": 4}  # fmt: skip
UNETS = {
    "unet": {"layers": (2, 1), "depth": (0, 1), "eps": 1e-3},
    "unet_convolution": {"temporal": "convolution", "projection": "linear", "layers": (1,), "widths": (16,),
                         "heads": (4,), "depth": (1,)},
    # What no published class has: numbers beside motion modules, transformers of other depths, modules at one level.
    "unet_motion": {"temporal": "motion", "motion_heads": (2, 4), "motion_depth": (0, 2), "motion_mid_depth": 1,
                    "max_frames": 5, "scalars": ("fps",), "scalar_dim": 6, "eps_up": (1e-2, 1e-4), "mid_depth": 2,
                    "concat_channels": 2},
    "unet_mixed": {"temporal": "mixed", "mid_depth": 2, "scalars": ("fps", "motion"), "concat_channels": 1,
                   "eps_down": (1e-3, 1e-2), "scalar_dim": 8},
}  # fmt: skip
TWO_PROMPTS = ("unet", "unet_mixed")  # a prompt a frame
CALLS = """
import sys
import numpy as np
import torch
from model import Network, TextEncoder, open_network

for name in sys.argv[1:]:
    given = {key: torch.from_numpy(value) for key, value in np.load(f"{name}/inputs.npz").items()}
    network = open_network(TextEncoder if "ids" in given else Network, name)
    vector = {key.partition(".")[2]: given.pop(key) for key in list(given) if key.startswith("vector.")}
    with torch.no_grad():
        out = network(**given, **({"vector": vector} if vector else {}))
    np.save(f"{name}/out.npy", out.numpy())
others = {"jax", "flax", "vdm_jax", "diffusers", "transformers", "tokenizers"} & sys.modules.keys()
assert not others, others
"""


def redrawn(shapes: dict, seed: int = 0) -> dict:
    """Weights that hide nothing, by dotted path: scales of norms around 1, all others around 0."""
    rng = np.random.default_rng(seed)
    return {
        path: (float(path.endswith("scale")) + 0.2 * rng.standard_normal(shape)).astype(np.float32)
        for path, shape in shapes.items()
    }


def drawn(family, config) -> Component:
    return Component(family, config, nested(redrawn(family.shapes(config))))


def inputs(config: DiTConfig | UNetConfig, height: int, *, each_frame: bool) -> dict[str, np.ndarray]:
    """Conditions that the network reads; a prompt a clip, or one a frame."""
    rng = np.random.default_rng(1)
    found = {"x": rng.standard_normal((B, T, height, W, 3)), "t": np.linspace(10, 900, B * T).reshape(B, T)}
    if config.text_dim:
        frames = (T,) if each_frame else ()
        found |= {"tokens": rng.standard_normal((B, *frames, L, E))}
    if config.concat_channels:
        found["concat"] = rng.standard_normal((B, T, height, W, config.concat_channels))
    for number, name in enumerate(config.scalars):
        found[f"vector.{name}"] = np.array([7.0, -1.0]) + number * np.array([1.0, 0.0])
    found = {name: value.astype(np.float32) for name, value in found.items()}
    if config.text_dim:
        found["tokens_mask"] = np.arange(L) < np.array([[L], [L - 2]])
    if config.classes:
        found["vector.label"] = np.array([2, -1])
    if getattr(config, "known_channel", False):
        found["known"] = np.arange(T) < np.array([[1], [2]])
    return found


def ours(component: Component, given: dict[str, np.ndarray]) -> np.ndarray:
    cond = {name: value for name, value in given.items() if name not in ("x", "t") and "." not in name}
    if vector := {name.partition(".")[2]: value for name, value in given.items() if "." in name}:
        cond["vector"] = vector
    networks = component.family.define(component.config)

    def call(params, x, t, cond):
        return networks.merge({NETWORK: params})[NETWORK](x, t, cond)

    run = jax.jit(call, compiler_options=QUICK)
    return np.asarray(run(component.params, given["x"], given["t"], jax.tree.map(jnp.asarray, cond)))


def called(folder: Path, module: str, names: Iterable[str]) -> Path:
    """Networks that lie in `folder`, and a text encoder, called once in one process that has but this module."""
    shutil.copy(importlib.resources.files("vdm_jax.interop.exporting.torch_modules") / module, folder / "model.py")
    text = TrainedText(TextConfig(length=L, dim=12, depth=2, heads=2), 11)
    write(drawn(TEXT, text), folder / "text")
    ids = np.random.default_rng(2).integers(0, 11, (B, L))
    np.savez(folder / "text/inputs.npz", ids=ids, mask=np.arange(L) < np.array([[L], [2]]))
    command = [sys.executable, "-c", CALLS, *names, "text"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    pytest.importorskip("torch", reason="the module is for PyTorch")
    folder = tmp_path_factory.mktemp("torch")
    for name, fields in VARIANTS.items():
        config = DiTConfig(**{"dim": 24, "depth": 1, "heads": 2, **fields})
        write(drawn(DIT, config), folder / name)
        np.savez(folder / name / "inputs.npz", **inputs(config, H, each_frame=config.attention == "factorised"))
    return called(folder, "dit.py", VARIANTS)


@pytest.fixture(scope="module")
def their_unets(tmp_path_factory):
    pytest.importorskip("torch", reason="the module is for PyTorch")
    folder = tmp_path_factory.mktemp("unets")
    for name, fields in UNETS.items():
        config = UNetConfig(**(UNET_BASE | fields))
        write(drawn(UNET, config), folder / name)
        given = inputs(config, H + 1, each_frame=name in TWO_PROMPTS)  # an odd height is not what it is once doubled
        np.savez(folder / name / "inputs.npz", **given)
    return called(folder, "unet.py", UNETS)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_option_is_the_same_function(theirs, name):
    component = read(theirs / name, family=DIT)
    given = dict(np.load(theirs / name / "inputs.npz"))
    assert component.config == DiTConfig(**{"dim": 24, "depth": 1, "heads": 2, **VARIANTS[name]})
    out = ours(component, given)
    assert np.abs(out).max() > 0.1
    assert relative_error(np.load(theirs / name / "out.npy"), out) < 1e-4
    if name == "full":  # and the comparison can fail
        assert relative_error(ours(component, given | {"t": given["t"] * 1.01}), out) > 1e-3


@pytest.mark.parametrize("name", UNETS)
def test_a_unet_of_any_options_is_the_same_function(their_unets, name):
    component = read(their_unets / name, family=UNET)
    given = dict(np.load(their_unets / name / "inputs.npz"))
    assert component.config == UNetConfig(**(UNET_BASE | UNETS[name]))
    out = ours(component, given)
    assert np.abs(out).max() > 0.1
    assert relative_error(np.load(their_unets / name / "out.npy"), out) < 1e-4
    if name == "unet_motion":  # and the comparison can fail
        assert relative_error(ours(component, given | {"vector.fps": given["vector.fps"] + 0.1}), out) > 1e-3


def test_the_text_encoder_is_the_same_function(theirs, their_unets):
    component = read(theirs / "text", family=TEXT)
    given = np.load(theirs / "text/inputs.npz")
    out = component.network()(given["ids"], given["mask"])["tokens"]
    kept = given["mask"][..., None]
    for folder in (theirs, their_unets):
        assert relative_error(np.load(folder / "text/out.npy") * kept, np.asarray(out) * kept) < 1e-4


PROCESSES = {
    "flow x0": {"kind": "rectified_flow", "prediction": "x0", "shift": 3.0},
    "flow eps": {"kind": "rectified_flow", "prediction": "eps"},
    "vp v": {"kind": "vp", "prediction": "v", "zero_terminal_snr": True, "schedule": "scaled_linear"},
    "vp eps": {"kind": "vp", "prediction": "eps", "schedule": "cosine", "steps": 50},
    "vp x0": {"kind": "vp", "prediction": "x0", "snr_shift": 3.0},
    "scaled vp": {"kind": "scaled_vp", "schedule": "scaled_linear", "signal": 0.6},
    "edm": {"kind": "edm"},
    "edm v": {"kind": "edm", "prediction": "v", "told": "quarter_log", "sigma_data": 1.0},
}


@pytest.mark.parametrize("name", PROCESSES)
def test_every_process_takes_the_same_steps(name):
    """A made-up network, told the level and fed x as theirs is; ancestral steps with the same noise."""
    torch = pytest.importorskip("torch", reason="the module is for PyTorch")
    process = process_from(PROCESSES[name])
    theirs = shipped().Process(json.loads(json.dumps(process_to_dict(process))))
    rng, steps = np.random.default_rng(3), 5
    levels = process.levels(steps)
    np.testing.assert_allclose(theirs.levels(steps), levels, rtol=2e-6)
    x = rng.standard_normal((2, 2, 3)).astype(np.float32) * np.hypot(*theirs.alpha_sigma(theirs.levels(steps)[0]))
    a, b = jnp.asarray(x, jnp.float32), torch.from_numpy(x)
    for eta in (0.0, 1.0):
        for t, s in zip(theirs.levels(steps)[:-1], theirs.levels(steps)[1:]):
            noise = rng.standard_normal(x.shape).astype(np.float32)
            ours_t, ours_s = jnp.full((2, 2), np.float32(t)), jnp.full((2, 2), np.float32(s))
            out = jnp.tanh(process.network_input(a, ours_t) + process.network_time(ours_t)[..., None] / 1000)
            x0 = process.belief(out, a, ours_t)
            a = process.reverse_step(a, x0, ours_t, ours_s, noise, eta)
            out = torch.tanh(theirs.fed(b, t) + theirs.told(t) / 1000)
            b = theirs.step(b, theirs.clean(out, b, t), t, s, eta, torch.from_numpy(noise))
            assert relative_error(b.numpy(), np.asarray(a)) < 1e-4
        a, b = (leaf + 0.5 * process.t_max for leaf in (a, b))
