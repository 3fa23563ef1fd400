"""Options of published schedulers: none unknown here, all of them written back, wrong ones named in one line."""

import inspect

import numpy as np
import pytest

from vdm_jax.diffusion import (
    DDIM,
    EDM,
    LCM,
    TCD,
    VP,
    DPMSolverPP2M,
    Euler,
    Heun,
    RectifiedFlow,
    UniPC,
    process_from,
    process_to_dict,
)
from vdm_jax.diffusion.time_sampling import LogNormal
from vdm_jax.interop.schedulers.options import DEFAULTS
from vdm_jax.interop.schedulers.published import read_scheduler, scheduler_for

diffusers = pytest.importorskip("diffusers", reason="the oracle is diffusers (extra: torch)")

from tests.interop.schedulers.schedules import NAMES, published  # noqa: E402


@pytest.mark.parametrize("name", DEFAULTS)
def test_options_and_defaults_are_those_of_the_class(name):
    parameters = inspect.signature(getattr(diffusers, name).__init__).parameters
    theirs = {key: p.default for key, p in parameters.items() if key not in ("self", "kwargs")}
    assert DEFAULTS[name] == theirs


@pytest.mark.parametrize("name", NAMES)
def test_a_config_goes_back_out(name):
    config = published(name)
    scheduler = read_scheduler(config)
    written = scheduler.config()
    assert {key: written[key] for key in config} == config
    assert read_scheduler(written) == scheduler
    there, here = (getattr(diffusers, config["_class_name"]).from_config(c).config for c in (config, written))
    options = DEFAULTS[config["_class_name"]]
    assert {key: there[key] for key in options} == {key: here[key] for key in options}


@pytest.mark.parametrize("name", NAMES)
def test_the_process_survives_a_checkpoint(name):
    process = read_scheduler(published(name)).process
    assert process_from(process_to_dict(process)) == process


def test_what_a_class_does_not_read_is_carried():
    config = published("sd15_euler")
    assert read_scheduler(config).options.carried.keys() == {"clip_sample", "set_alpha_to_one", "skip_prk_steps"}


EULER = {"_class_name": "EulerDiscreteScheduler"}
UNIPC = {"_class_name": "UniPCMultistepScheduler"}
DPM = {"_class_name": "DPMSolverMultistepScheduler"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "_class_name: unknown None"),
        ({"_class_name": "DDIMSchedular"}, "did you mean 'DDIMScheduler'"),
        (EULER | {"beta_shedule": "linear"}, "EulerDiscreteScheduler.*did you mean 'beta_schedule'"),
        (EULER | {"beta_schedule": "sigmoid"}, "beta_schedule='sigmoid' is not supported .only 'linear' or"),
        (EULER | {"num_train_timesteps": "1000"}, "num_train_timesteps='1000' is not like 1000"),
        (EULER | {"steps_offset": True}, "steps_offset=True is not like 0"),
        (EULER | {"use_karras_sigmas": True, "use_beta_sigmas": True}, "use_karras_sigmas and use_beta_sigmas exclude"),
        (EULER | {"interpolation_type": "log_linear"}, "interpolation_type='log_linear' is not supported"),
        (EULER | {"beta_start": 0.5, "beta_end": 0.1}, "EulerDiscreteScheduler: beta_start: 0.5"),
        (EULER | {"rescale_betas_zero_snr": True}, "EulerDiscreteScheduler: prediction: 'eps' says nothing"),
        ({"_class_name": "DDPMScheduler", "variance_type": "learned_range"}, "variance_type='learned_range' is not"),
        ({"_class_name": "DDIMInverseScheduler"}, "set_alpha_to_one=True is not supported .only False"),
        (UNIPC | {"solver_order": 3}, "solver_order=3 is not supported .only 2"),
        (UNIPC | {"prediction_type": "flow_prediction"}, "prediction_type='flow_prediction' does not go with"),
        (UNIPC | {"use_flow_sigmas": True}, "prediction_type='epsilon' does not go with use_flow_sigmas=True"),
        (UNIPC | {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}, "final_sigmas_type='sigma_min'"),
        (UNIPC | {"shift_terminal": 0.1}, "shift_terminal=0.1 needs use_flow_sigmas"),
        (DPM | {"algorithm_type": "dpmsolver"}, "algorithm_type='dpmsolver' is not supported"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(config, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_scheduler(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "steps", "message"),
    [
        (EULER, 0, "steps: 0 must be 1 to 1000"),
        (EULER, 1001, "steps: 1001 must be 1 to 1000"),
        ({"_class_name": "LCMScheduler"}, 51, "steps: 51 is more than the 50"),
        (EULER | {"timestep_spacing": "leading", "steps_offset": 1}, 1000, "steps_offset=1 puts a timestep at 1000"),
        (EULER | {"use_karras_sigmas": True, "sigma_max": 700.0}, 5, "sigma: 700 lies outside the levels of the table"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift_terminal": 0.1}, 1, "needs at least 2 steps"),
        (
            {"_class_name": "DDPMScheduler", "variance_type": "fixed_large", "timestep_spacing": "trailing"},
            10,
            "variance_type='fixed_large' is not supported where the last timestep is 99",
        ),
    ],
)
def test_steps_that_cannot_be_taken_are_named(config, steps, message):
    with pytest.raises(ValueError, match=message):
        read_scheduler(config).plan(steps)


V = VP(schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)


@pytest.mark.parametrize(
    ("process", "solver", "published"),
    [
        (RectifiedFlow(shift=5.0, times=LogNormal()), Euler(), "FlowMatchEulerDiscreteScheduler"),
        (RectifiedFlow(), LCM(scaling=None), "FlowMatchEulerDiscreteScheduler"),
        (RectifiedFlow(shift=3.0), UniPC(), "UniPCMultistepScheduler"),
        (RectifiedFlow(shift=3.0), DPMSolverPP2M(sde=True), "DPMSolverMultistepScheduler"),
        (V, DDIM(), "DDIMScheduler"),
        (VP(prediction="eps", schedule="cosine"), DDIM(eta=1.0), "DDPMScheduler"),
        (V, Heun(clock="ratio"), "HeunDiscreteScheduler"),
        (V, UniPC(function="bh1"), "UniPCMultistepScheduler"),
        (V, DPMSolverPP2M(difference="heun"), "DPMSolverMultistepScheduler"),
        (V, LCM(), "LCMScheduler"),
        (V, TCD(), "TCDScheduler"),
        (VP(snr_shift=3.0, zero_terminal_snr=True), DDIM(), "CogVideoXDDIMScheduler"),
        (VP(snr_shift=3.0, zero_terminal_snr=True), DPMSolverPP2M(sde=True), "CogVideoXDPMScheduler"),
        (EDM(told="quarter_log", sigma_max=200.0), Euler(), "EDMEulerScheduler"),
        (EDM(told="quarter_log", prediction="v"), Euler(), "EDMEulerScheduler"),
    ],
    ids=str,
)
def test_our_processes_find_their_published_scheduler(process, solver, published):
    scheduler = scheduler_for(process, solver)
    assert scheduler.options.published == published
    plan = scheduler.plan(20)
    assert plan.solver in ((DDIM(), Euler()) if solver in (DDIM(), Euler()) else (solver,))
    getattr(diffusers, published).from_config(scheduler.config()).set_timesteps(20)


def test_an_exported_sampler_takes_our_levels():
    np.testing.assert_array_equal(scheduler_for(V, DDIM()).plan(10).levels, V.levels(10))
    flow = RectifiedFlow(shift=3.0)
    levels = scheduler_for(flow, UniPC()).plan(10).levels
    np.testing.assert_allclose(levels, flow.levels(10), atol=2e-3)  # theirs aim at 1 / 1000 before the last step


@pytest.mark.parametrize(
    ("process", "solver", "message"),
    [
        (RectifiedFlow(prediction="x0"), Euler(), "process: .* is not what FlowMatchEulerDiscreteScheduler can state"),
        (RectifiedFlow(), Heun(), "solver: no published scheduler has Heun"),
        (EDM(), Euler(), "is not what EDMEulerScheduler can state"),
        (EDM(), UniPC(), "solver: no published scheduler has UniPC"),
        (VP(zero_terminal_snr=True), Heun(clock="ratio"), "is not what HeunDiscreteScheduler can state"),
        (VP(snr_shift=2.0), UniPC(), "solver: no published scheduler has UniPC"),
    ],
)
def test_what_no_published_scheduler_has_is_named(process, solver, message):
    with pytest.raises(ValueError, match=message):
        scheduler_for(process, solver)


def test_dynamic_mu_lies_on_the_published_line():
    scheduler = read_scheduler(published("ltx_flow_euler"))
    assert scheduler.dynamic_mu(1024) == pytest.approx(0.95)
    assert scheduler.dynamic_mu(4096) == pytest.approx(2.05)
