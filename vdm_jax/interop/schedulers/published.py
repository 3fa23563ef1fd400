"""Published `scheduler_config.json` files as processes, levels and solvers, and back.

    scheduler = read_scheduler(json.loads(path.read_text()))
    plan = scheduler.plan(steps=50)
    denoiser = make_denoiser(scheduler.process, network, plan.told_by(scheduler.process))
    x_0 = sample(denoiser, scheduler.process, plan.start(noise), plan.levels, cond, rng=key, solver=plan.solver,
                 hooks=plan.hooks, lands=plan.lands, rising=plan.rising)
    latents = plan.units[-1] * x_0

What such a file says falls into two parts: the process that the weights were trained with, which is stored with them,
and how it is sampled, which anybody may choose anew.  One process belongs to many schedulers.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from vdm_jax.config import to_dict
from vdm_jax.diffusion import DDIM, EDM, LCM, TCD, VP, DPMSolverPP2M, Euler, Heun, Process, RectifiedFlow, Solver, UniPC
from vdm_jax.interop.schedulers import plans
from vdm_jax.interop.schedulers.options import SchedulerOptions, read_options
from vdm_jax.interop.schedulers.plans import Choices, Plan

_PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}

_PLANS: dict[str, Callable[[SchedulerOptions, Any, Choices], Plan]] = {
    "DDPMScheduler": plans.ancestral_plan,
    "DDIMScheduler": plans.table_plan,
    "DDIMInverseScheduler": plans.inverse_plan,
    "EulerDiscreteScheduler": plans.ladder_plan,
    "EulerAncestralDiscreteScheduler": plans.ladder_plan,
    "HeunDiscreteScheduler": plans.ladder_plan,
    "DPMSolverMultistepScheduler": plans.multistep_plan,
    "UniPCMultistepScheduler": plans.multistep_plan,
    "LCMScheduler": plans.distilled_plan,
    "TCDScheduler": plans.distilled_plan,
    "CogVideoXDDIMScheduler": plans.table_plan,
    "CogVideoXDPMScheduler": plans.table_plan,
    "PNDMScheduler": plans.plms_plan,
    "EDMEulerScheduler": plans.edm_plan,
    "FlowMatchEulerDiscreteScheduler": plans.flow_plan,
    "ScaledDDIMScheduler": plans.table_plan,
}


@dataclasses.dataclass(frozen=True)
class Scheduler:
    """A published scheduler.

    Attributes:
      options: as published, complete.
      process: of the weights.
    """

    options: SchedulerOptions
    process: Process

    def plan(self, steps: int, *, eta: float | None = None, mu: float | None = None) -> Plan:
        """Levels, solver and the rest for K steps; see `Choices`.

        Raises:
          ValueError: fewer than one step, more than the table has entries, or steps that the options do not allow.
        """
        entries = self.options.num_train_timesteps
        if not 1 <= steps <= entries:
            raise ValueError(f"steps: {steps!r} must be 1 to {entries}, the entries of the table")
        make = _PLANS[self.options.published]
        if make is plans.multistep_plan and isinstance(self.process, RectifiedFlow):
            make = plans.multistep_flow_plan
        elif make is plans.ladder_plan and isinstance(self.process, EDM):
            make = plans.continuous_plan
        return make(self.options, self.process, Choices(steps, eta, mu))

    def dynamic_mu(self, tokens: int) -> float:
        """The `mu` that published pipelines take for clips of `tokens` tokens: on a straight line between two sizes."""
        low, high = self.options.base_image_seq_len, self.options.max_image_seq_len
        slope = (self.options.max_shift - self.options.base_shift) / (high - low)
        return self.options.base_shift + slope * (tokens - low)

    def config(self) -> dict[str, Any]:
        """`scheduler_config.json`, every option of the class written out, and what it carried before."""
        options = self.options
        return {"_class_name": options.published, **to_dict(dict(options.carried)), **to_dict(dict(options.values))}


def read_scheduler(config: Mapping[str, Any]) -> Scheduler:
    """`scheduler_config.json` -> process and sampler.

    Raises:
      ValueError: a class or option that is not known, or a value, alone or with others, that is not built here.
    """
    options = read_options(config)
    try:
        return Scheduler(options, _process(options))
    except ValueError as error:
        named = str(error).startswith(options.published)
        raise error if named else ValueError(f"{options.published}: {error}") from None


def scheduler_for(process: Process, solver: Solver) -> Scheduler:
    """The published scheduler of a process and a solver of ours, for export.

    Raises:
      ValueError: no published class has this process, or this solver for it.
    """
    if isinstance(process, RectifiedFlow):
        published, own = _published_flow(process, solver)
    elif isinstance(process, VP):
        published, own = _published_table(process, solver)
    elif isinstance(process, EDM):
        published, own = _published_edm(process, solver)
    else:
        raise ValueError(f"process: {process} has no published scheduler")
    scheduler = read_scheduler({"_class_name": published, **own})
    plain = dataclasses.replace(process, times=scheduler.process.times, weighting=scheduler.process.weighting)
    if plain != scheduler.process:
        raise ValueError(f"process: {plain} is not what {published} can state, {scheduler.process}")
    return scheduler


def _process(options: SchedulerOptions) -> Process:
    if options.published == "FlowMatchEulerDiscreteScheduler":
        return RectifiedFlow(shift=1.0 if options.use_dynamic_shifting else float(options.shift))
    if options.published == "EDMEulerScheduler":
        ends = {"sigma_min": float(options.sigma_min), "sigma_max": float(options.sigma_max)}
        prediction = "F" if options.prediction_type == "epsilon" else "v"
        data, rho = float(options.sigma_data), float(options.rho)
        return EDM(prediction=prediction, sigma_data=data, rho=rho, told="quarter_log", **ends)
    flow = options.prediction_type == "flow_prediction"
    stays = options.published == "UniPCMultistepScheduler" and (flow or plans.ladder_of(options))
    if stays and options.final_sigmas_type != "zero":  # it corrects x once more where it stands; here it would stay
        raise options.refuse("final_sigmas_type", "is not supported with a ladder or a flow (only 'zero')")
    if flow != bool(options.get("use_flow_sigmas")):
        raise options.refuse("prediction_type", f"does not go with use_flow_sigmas={options.use_flow_sigmas!r}")
    if flow:
        return _flow(options)
    if options.get("shift_terminal") is not None:
        raise options.refuse("shift_terminal", "needs use_flow_sigmas")
    if options.get("timestep_type") == "continuous" and options.prediction_type == "v_prediction":
        return _continuous(options)
    return plans.table_process(options, _PREDICTIONS[options.prediction_type])


def _flow(options: SchedulerOptions) -> RectifiedFlow:
    for name in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"):
        if options.get(name):
            raise options.refuse(name, "does not go with use_flow_sigmas")
    if options.published == "DPMSolverMultistepScheduler" and options.final_sigmas_type != "zero":
        raise options.refuse("final_sigmas_type", "is not supported with use_flow_sigmas (only 'zero')")
    return RectifiedFlow(shift=1.0 if options.use_dynamic_shifting else float(options.flow_shift))


def _continuous(options: SchedulerOptions) -> EDM:
    """EDM at sigma_data 1, its ends those of the ladder, or of the table."""
    table = plans.sigma_table(plans.table_process(options))
    low, high = (
        float(own if given is None else given)
        for given, own in ((options.sigma_min, table[0]), (options.sigma_max, table[-1]))
    )
    if plans.ladder_of(options) is None:  # levels are those of the table whatever the ends
        low, high = min(low, float(table[0])), max(high, float(table[-1]))
    return EDM(prediction="v", sigma_min=low, sigma_max=high, sigma_data=1.0, told="quarter_log")


def _published_flow(process: RectifiedFlow, solver: Solver) -> tuple[str, dict[str, Any]]:
    multistep = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": process.shift}
    if isinstance(solver, UniPC):
        return "UniPCMultistepScheduler", {**multistep, "solver_type": solver.function}
    if isinstance(solver, DPMSolverPP2M):
        return "DPMSolverMultistepScheduler", {**multistep, **_dpm(solver)}
    if solver in (Euler(), DDIM()):
        return "FlowMatchEulerDiscreteScheduler", {"shift": process.shift}
    if solver == LCM(scaling=None):
        return "FlowMatchEulerDiscreteScheduler", {"shift": process.shift, "stochastic_sampling": True}
    raise ValueError(f"solver: no published scheduler has {solver} for a flow")


def _published_table(process: VP, solver: Solver) -> tuple[str, dict[str, Any]]:
    own = {
        "num_train_timesteps": process.steps,
        "beta_start": process.beta_start,
        "beta_end": process.beta_end,
        "beta_schedule": _SCHEDULES[process.schedule],
        "prediction_type": {ours: theirs for theirs, ours in _PREDICTIONS.items()}[process.prediction],
        "rescale_betas_zero_snr": process.zero_terminal_snr,
        "timestep_spacing": "trailing",
        "clip_sample": False,
    }
    if process.snr_shift != 1.0:
        own["snr_shift_scale"] = process.snr_shift
        if isinstance(solver, DPMSolverPP2M) and solver.sde:
            return "CogVideoXDPMScheduler", own
        if solver in (Euler(), DDIM()):
            return "CogVideoXDDIMScheduler", own
    elif solver in (Euler(), DDIM()):
        return "DDIMScheduler", own
    elif solver == DDIM(eta=1.0):
        return "DDPMScheduler", own
    elif solver == Heun(clock="ratio"):
        return "HeunDiscreteScheduler", own
    elif isinstance(solver, UniPC):
        return "UniPCMultistepScheduler", {**own, "solver_type": solver.function}
    elif isinstance(solver, DPMSolverPP2M):
        return "DPMSolverMultistepScheduler", {**own, **_dpm(solver)}
    elif isinstance(solver, LCM) and solver.scaling is not None:
        return "LCMScheduler", {**own, "timestep_scaling": solver.scaling}
    elif isinstance(solver, TCD):
        return "TCDScheduler", own
    raise ValueError(f"solver: no published scheduler has {solver} for {process}")


def _published_edm(process: EDM, solver: Solver) -> tuple[str, dict[str, Any]]:
    if solver not in (Euler(), DDIM()):
        raise ValueError(f"solver: no published scheduler has {solver} for EDM")
    names = ("sigma_min", "sigma_max", "sigma_data", "rho")
    prediction = "epsilon" if process.prediction == "F" else "v_prediction"
    return "EDMEulerScheduler", {**{name: getattr(process, name) for name in names}, "prediction_type": prediction}


def _dpm(solver: DPMSolverPP2M) -> dict[str, Any]:
    algorithm = "sde-dpmsolver++" if solver.sde else "dpmsolver++"
    return {"algorithm_type": algorithm, "solver_type": solver.difference}
