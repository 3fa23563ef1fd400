"""Published schedulers against diffusers: every step of whole trajectories, timesteps, noised clips and targets."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the oracle is PyTorch (extra: torch)")
pytest.importorskip("diffusers", reason="the oracle is diffusers (extra: torch)")

from tests.interop.schedulers.schedules import COUNTS, NAMES, draws, our_paths, published, their_path, worst  # noqa: E402
from vdm_jax.interop.schedulers.published import read_scheduler  # noqa: E402
from vdm_jax.sampling import make_denoiser, sample  # noqa: E402

MU = {"ltx_flow_euler": {"mu": 1.2}}
# Which step counts share a solver, where not all do or not all can be taken.
GROUPS = {
    "if_ddpm": [(20,), (4,)],  # its threshold looks at all frames of an example
    "sd15_dpm_karras_sigma_min": [(20, 50), (4,)],  # fewer than 15 steps end with one of first order
    "sd15_sde_dpm_heun_beta": [(20, 1, 2, 4)],  # with 50, diffusers itself runs out of its timesteps, two are the same
    "ltx_flow_euler": [(20, 2, 4, 50)],  # one level cannot be stretched
}
# From 80 or more down to 1 in a few steps, Euler in float32 subtracts what it has just added: at these counts diffusers
# is off by up to 5e-4 from itself in float64, with which we agree.
CANCELS = {"edm_euler", "cosmos_edm_euler", "svd_euler", "zsnr_euler"}


@pytest.mark.parametrize("name", NAMES)
def test_trajectories_are_those_of_diffusers(name, monkeypatch):
    config, choices = published(name), MU.get(name, {})
    for counts in GROUPS.get(name, [COUNTS]):
        paths, plans = our_paths(config, counts, **choices)
        for steps, path, plan in zip(counts, paths, plans):
            double = name in CANCELS and steps <= 4
            with monkeypatch.context() as patch:
                reference, scheduler = their_path(config, steps, patch, double=double, **choices)
            error = worst(path, reference)
            assert error < 1e-5, f"{steps} steps: {error:.1e}"
            told = scheduler.timesteps.numpy()
            if len(told) == steps + 1:  # PNDM lists both evaluations of its first step, Heun of all but its last
                told = np.delete(told, 1)
            told = told if len(told) == steps else np.append(told[:1], told[1::2])
            np.testing.assert_allclose(plan.told, told, rtol=1e-6, atol=0.0 if told.dtype == np.int64 else 1e-4)


@pytest.mark.parametrize(
    ("name", "eta"), [("sd15_ddim", 0.5), ("ddim_pixels", 1.0), ("sd15_tcd", 0.0), ("sd15_tcd", 1.0)]
)
def test_eta_means_what_it_means_there(name, eta, monkeypatch):
    (path,), _ = our_paths(published(name), (20,), eta=eta)
    reference, _ = their_path(published(name), 20, monkeypatch, eta=eta)
    assert worst(path, reference) < 1e-5


@pytest.mark.parametrize(
    ("name", "changes", "steps"),
    [
        ("sd15_ddim", {"timestep_spacing": "trailing"}, 7),
        ("zsnr_ddim", {"timestep_spacing": "linspace"}, 13),
        ("cogvideox_2b_dpm", {"timestep_spacing": "trailing", "set_alpha_to_one": False}, 7),
        ("sd15_ddim_inverse", {"timestep_spacing": "trailing"}, 7),
    ],
    ids=str,
)
def test_steps_that_land_beside_the_next_level(name, changes, steps, monkeypatch):
    """diffusers goes N // K entries down and then on from the next timestep, which may stand elsewhere."""
    config = published(name) | changes
    (path,), (plan,) = our_paths(config, (steps,))
    assert plan.lands is not None
    assert worst(path, their_path(config, steps, monkeypatch)[0]) < 1e-5


@pytest.mark.parametrize(("name", "counts"), [("sd15_pndm", (20, 4)), ("sd15_ddim", (20, 4))])
def test_a_part_of_the_steps(name, counts, monkeypatch):
    """8 and 1 of them.  PNDM lists the second timestep twice, so a part begins a step early and stays a step behind."""
    paths, plans = our_paths(published(name), counts, strength=0.4)
    for steps, path, plan in zip(counts, paths, plans):
        assert len(plan.told) == int(steps * 0.4)
        assert worst(path, their_path(published(name), steps, monkeypatch, strength=0.4)[0]) < 1e-5


def test_a_part_that_pndm_cannot_take_is_refused():
    for steps, strength, allowed in ((4, 0.75, "all, or at most 2 .0.5."), (2, 0.5, "all$")):
        with pytest.raises(ValueError, match=f"strength: leaves {steps - 1} of {steps} steps, .* must leave {allowed}"):
            read_scheduler(published("sd15_pndm")).plan(steps).part(strength)


def test_dynamic_shift_of_a_flow_on_multistep_solvers(monkeypatch):
    for name in ("wan_unipc_480p", "sana_flow_dpm"):
        config = published(name) | {"use_dynamic_shifting": True}
        plan = read_scheduler(config).plan(20, mu=0.7)
        _, scheduler = their_path(config, 20, monkeypatch, mu=0.7)
        np.testing.assert_allclose(plan.levels, scheduler.sigmas, rtol=1e-6)
        with pytest.raises(ValueError, match="use_dynamic_shifting=True needs `mu`"):
            read_scheduler(config).plan(20)


def clips():
    x0, noise = np.random.default_rng(5).normal(size=(2, 1, 1, 6, 4)).astype(np.float32)
    return x0, noise


# DDIMInverseScheduler goes up from given latents and noises nothing.
@pytest.mark.parametrize("name", [name for name in NAMES if name != "sd15_ddim_inverse"])
def test_noised_clips_and_targets_are_those_of_diffusers(name, monkeypatch):
    config, choices = published(name), MU.get(name, {})
    scheduler = read_scheduler(config)
    process, plan = scheduler.process, scheduler.plan(20, **choices)
    _, theirs = their_path(config, 20, monkeypatch, **choices)
    x0, noise = clips()
    predicts_v = getattr(process, "prediction", None) == "v"
    for k in (0, 7, 19):
        t = theirs.timesteps[max(2 * k - 1, 0)] if "Heun" in config["_class_name"] else theirs.timesteps[k]
        t = theirs.timesteps[k + (k > 0)] if "PNDM" in config["_class_name"] else t
        add = getattr(theirs, "add_noise", None) or functools.partial(_scale_noise, theirs)
        theirs._begin_index = theirs._step_index = None  # the trajectory has left it at its end
        expected = add(torch.from_numpy(x0[0]), torch.from_numpy(noise[0]), t[None]).numpy()[None]
        noised = np.asarray(process.q_sample(x0, noise, plan.levels[k])) * np.float32(plan.units[k])
        assert np.abs(noised - expected).max() < 1e-5 * np.abs(expected).max()
        target = np.asarray(process.target(x0, noise, plan.levels[k]))
        if hasattr(theirs, "get_velocity") and predicts_v and not t.is_floating_point():
            velocity = theirs.get_velocity(torch.from_numpy(x0[0]), torch.from_numpy(noise[0]), t[None]).numpy()[None]
            assert np.abs(target - velocity).max() < 1e-5 * np.abs(velocity).max()
        elif getattr(process, "prediction", None) == "eps":
            np.testing.assert_array_equal(target, noise)


def _scale_noise(scheduler, x0, noise, timesteps):
    return scheduler.scale_noise(x0, timesteps, noise)


def test_flow_targets_are_those_of_published_training():
    x0, noise = clips()
    target = read_scheduler(published("wan_flow_euler")).process.target(x0, noise, 0.3)
    np.testing.assert_allclose(target, noise - x0, rtol=1e-6)


def test_unit_sigma_data_predicts_the_v_of_the_table(monkeypatch):
    """SVD's network, an EDM of ours, predicts what the same network predicts as a variance-preserving one."""
    x0, noise = clips()
    sigma = np.float32(3.0)
    alpha = 1 / np.sqrt(1 + sigma**2)
    target = read_scheduler(published("svd_euler")).process.target(x0, noise, sigma)
    np.testing.assert_allclose(target, alpha * noise - alpha * sigma * x0, rtol=1e-5, atol=1e-6)


def test_draws_from_a_key_and_the_ordinary_compile(monkeypatch):
    """The same path without given draws: a stochastic solver takes them from the key, and they can be handed over."""
    scheduler = read_scheduler(published("sd15_sde_dpm_karras"))
    process, plan = scheduler.process, scheduler.plan(5)
    denoiser = make_denoiser(process, lambda x, t, cond: jnp.tanh(x), plan.told_by(process))
    start = plan.start(jnp.asarray(draws(1)[0]))
    run = jax.jit(lambda **own: sample(denoiser, process, start, plan.levels, {}, solver=plan.solver, **own))
    drawn = [run(rng=jax.random.key(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()
    given = run(noise=np.zeros((5, *start.shape), np.float32))
    assert np.isfinite(given).all()
    assert (given != drawn[0]).any()


def test_reading_needs_only_json():
    """A file with `-Infinity`, as published, is read as it is."""
    text = json.dumps(published("sd15_dpm"))
    assert "-Infinity" in text
    assert read_scheduler(json.loads(text)).process.steps == 1000
