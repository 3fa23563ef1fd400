"""How each published scheduler takes K steps: levels, what the network is told at each, and a solver of `diffusion/`.

    tables    DDPM, DDIM and its inverse, PNDM, LCM, TCD, CogVideoX: entries of the table of betas
    ladders   Euler, ancestral Euler, Heun, DPM-Solver++, UniPC: sigma / alpha, also between the entries
    EDM       sigma itself
    flows     t itself, shifted

Some schedulers compute on x / alpha in place of x.  The path is the same; `Plan.unit` is the factor between the two.
"""

import dataclasses

import numpy as np

from vdm_jax.diffusion import (
    DDIM,
    EDM,
    LCM,
    PLMS,
    TCD,
    VP,
    Bound,
    ClipRange,
    DPMSolverPP2M,
    DynamicThreshold,
    Euler,
    Heun,
    RectifiedFlow,
    ScaledVP,
    Solver,
    UniPC,
)
from vdm_jax.diffusion.rectified_flow import shift_time
from vdm_jax.diffusion.schedules import invert_level
from vdm_jax.diffusion.spacing import beta, exponential, karras, leading, linspace, stretch_to, subset, trailing
from vdm_jax.interop.schedulers.options import SchedulerOptions
from vdm_jax.sampling import Hooks, told_at
from vdm_jax.types import Array, Clip

_LAST_SNR = 2.0**-24  # what published samplers put in place of a terminal SNR of zero where they divide by it
_NEARLY_ONE = 1.0 - 1e-6  # the same for flows


@dataclasses.dataclass(frozen=True)
class Choices:
    """What a published pipeline decides at each call.

    Attributes:
      steps: K.
      eta: of DDIM; for TCD its gamma.  None is the published default.
      mu: of dynamic shifting.
    """

    steps: int
    eta: float | None = None
    mu: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """K steps of a published scheduler.

    Attributes:
      levels: `[K + 1]`, the level matrix of all frames.
      told: `[K]`, the published timesteps.
      solver: takes the steps.
      lands: `[K]`, where they arrive if not at levels[1:]; see `sampling.sample`.
      bound: of x0_hat, or None.
      unit: `[K + 1]`, published latents over ours.
      noise_scale: of published latents at the start, over standard normal noise.
    """

    levels: np.ndarray
    told: np.ndarray
    solver: Solver
    lands: np.ndarray | None = None
    bound: Bound | None = None
    unit: np.ndarray | float = 1.0
    noise_scale: float = 1.0

    @property
    def hooks(self) -> Hooks:
        """The edit of x0_hat that keeps it within bounds."""
        return Hooks() if self.bound is None else Hooks(edit_x0=lambda x0_hat, x_t, info: self.bound(x0_hat))

    @property
    def rising(self) -> str:
        """What a rising level means; see `sampling.sample`."""
        return "invert" if self.levels[-1] > self.levels[0] else "refuse"

    def told_by(self, process):
        """`told` as a function of the level, for `sampling.make_denoiser`."""
        moves = self.levels[:-1] != (self.levels[1:] if self.lands is None else self.lands)
        return told_at(process, self.levels[:-1][moves], self.told[moves])

    def start(self, noise: Clip) -> Array:
        """x_T from standard normal noise."""
        return noise * np.float32(self.noise_scale / self.units[0])

    def part(self, strength: float) -> "Plan":
        """The last steps alone, a fraction `strength` of all: what published pipelines take for a clip to change.

        Raises:
          ValueError: a strength outside (0, 1], or one that leaves no step, or steps that are not taken by themselves.
        """
        steps = len(self.told)
        if not 0.0 < strength <= 1.0 or int(steps * strength) < 1:
            raise ValueError(f"strength: {strength!r} must be at most 1 and leave a step of {steps} ({1 / steps:.3g})")
        first = steps - int(steps * strength)
        return self.after(first) if first else self

    def after(self, first: int) -> "Plan":
        """What is left of the steps once the `first` ones are skipped.

        Raises:
          ValueError: steps that are not taken by themselves.
        """
        lands = None if self.lands is None else self.lands[first:]
        rest = {"lands": lands, "unit": self.units[first:]}
        return dataclasses.replace(self, levels=self.levels[first:], told=self.told[first:], **rest)

    @property
    def units(self) -> np.ndarray:
        """`unit` of each level."""
        return np.broadcast_to(np.asarray(self.unit, np.float64), self.levels.shape)


class PLMSPlan(Plan):
    """K steps of PNDM.

    It lists the timestep of its second step twice, as its first one is evaluated there too, and published pipelines
    skip entries of that list.  So a part begins a step earlier than one of another scheduler, and after its first step,
    which arrives as it should, the clip stands a step behind what every later step takes for granted.
    """

    def told_by(self, process):
        """See `Plan.told_by`; also of the level at which the first step arrives, which need not be one of a part."""
        return process.network_time

    def after(self, first: int) -> Plan:
        """See `Plan.after`.

        Raises:
          ValueError: one step is skipped, which moves the clip from a level at which it never was.
        """
        assert self.lands is None, "a part of a part"
        steps = len(self.told)
        if first == 1:
            fewer = f", or at most {steps - 2} ({(steps - 2) / steps:.3g})" if steps > 2 else ""
            raise ValueError(f"strength: leaves {steps - 1} of {steps} steps, of which PNDM takes the first from where "
                             f"the clip does not stand; it must leave all{fewer}")  # fmt: skip
        told = np.concatenate([self.told[first - 1 : first], self.told[first + 1 :]])
        lands = np.concatenate([self.levels[first : first + 1], self.levels[first + 2 :]])
        levels = np.concatenate([self.levels[first - 1 : first], self.levels[first + 1 : -1], lands[-1:]])
        solver = dataclasses.replace(self.solver, euler_to=0.0)  # both evaluations of the first step are there
        return dataclasses.replace(self, levels=levels, told=told, solver=solver, lands=lands)


def table_plan(options: SchedulerOptions, process: VP, choices: Choices) -> Plan:
    """DDIM and CogVideoX: from each entry `N // K` entries down, wherever the next one stands."""
    entries, told = process.steps, spaced(options, choices.steps)
    landed = told - entries // choices.steps
    final = 0.0 if options.set_alpha_to_one else 1.0 / entries
    lands = np.where(landed >= 0, (landed + 1) / entries, final)
    levels = np.append((told + 1) / entries, lands[-1])
    if options.published == "CogVideoXDPMScheduler":
        below_table = float(np.float32(final)) if landed[-1] < 0 else 0.0
        solver = DPMSolverPP2M(sde=True, first_order_to=below_table)
    else:
        cog = options.published == "CogVideoXDDIMScheduler"  # reads clip_sample and eta, and uses neither
        solver = DDIM() if cog else DDIM(eta=choices.eta or 0.0, bound=bound_of(options))
    return _plan(levels, told, solver, lands=lands)


def plms_plan(options: SchedulerOptions, process: VP, choices: Choices) -> Plan:
    """PNDM."""
    told = spaced(options, choices.steps)
    final = 0.0 if options.set_alpha_to_one else 1.0 / process.steps
    levels = np.append((told + 1) / process.steps, final).astype(np.float32)
    return PLMSPlan(levels, told.astype(np.float32), PLMS(euler_to=float(levels[-1])))


def inverse_plan(options: SchedulerOptions, process: VP, choices: Choices) -> Plan:
    """DDIM upwards: each step is told the timestep at which it arrives."""
    entries, told = process.steps, spaced(options, choices.steps)[::-1]
    left = np.maximum(told - entries // choices.steps, 0)
    lands = (told + 1) / entries
    levels = np.append((left + 1) / entries, lands[-1])
    return _plan(levels, told, DDIM(bound=bound_of(options)), lands=lands)


def ancestral_plan(options: SchedulerOptions, process: VP, choices: Choices) -> Plan:
    """DDPM."""
    told = spaced(options, choices.steps)
    forward = options.variance_type == "fixed_large"
    if forward and told[-1] > 0:
        why = f"is not supported where the last timestep is {told[-1]}: its noise would stay in the clip (only 0)"
        raise options.refuse("variance_type", why)
    solver = DDIM(eta=1.0, variance="forward" if forward else "posterior")
    return _plan(np.append((told + 1) / process.steps, 0.0), told, solver, bound=bound_of(options))


def distilled_plan(options: SchedulerOptions, process: VP, choices: Choices) -> Plan:
    """LCM and TCD."""
    told = subset(process.steps, choices.steps, options.original_inference_steps)
    if options.published == "TCDScheduler":
        gamma = 0.3 if choices.eta is None else choices.eta
        return _plan(np.append(told + 1, 1) / process.steps, told, TCD(gamma=gamma, entries=process.steps))
    levels = np.append((told + 1) / process.steps, 0.0)
    return _plan(levels, told, LCM(scaling=float(options.timestep_scaling)), bound=bound_of(options))


def ladder_plan(options: SchedulerOptions, process: VP, choices: Choices) -> Plan:
    """Euler, ancestral Euler and Heun: on x / alpha, at timesteps that need not be whole numbers."""
    told = _fractional(options, choices.steps)
    table = sigma_table(process)
    sigmas = np.interp(told, np.arange(len(table)), table)
    if ladder := ladder_of(options):
        sigmas = ladder(*_ends(options, sigmas[-1], sigmas[0]), choices.steps)
        told = _timesteps(table, sigmas)
    sigmas = np.append(sigmas, table[0] if options.get("final_sigmas_type") == "sigma_min" else 0.0).astype(np.float32)
    solvers = {"EulerAncestralDiscreteScheduler": DDIM(eta=1.0), "HeunDiscreteScheduler": Heun(clock="ratio")}
    return _plan(
        _levels(process, sigmas),
        told,
        solvers.get(options.published, Euler()),
        bound=bound_of(options),
        unit=np.sqrt(1.0 + sigmas.astype(np.float64) ** 2),
        noise_scale=_noise_scale(options, sigmas),
    )


def continuous_plan(options: SchedulerOptions, process: EDM, choices: Choices) -> Plan:
    """Euler of networks that are told ln(sigma) / 4 (SVD)."""
    table = sigma_table(table_process(options))
    sigmas = np.interp(_fractional(options, choices.steps), np.arange(len(table)), table)
    if ladder := ladder_of(options):
        sigmas = ladder(*_ends(options, sigmas[-1], sigmas[0]), choices.steps)
    sigmas = np.append(sigmas, table[0] if options.final_sigmas_type == "sigma_min" else 0.0).astype(np.float32)
    return _plan(sigmas, 0.25 * np.log(sigmas[:-1]), Euler(), noise_scale=_noise_scale(options, sigmas))


def multistep_plan(options: SchedulerOptions, process: VP, choices: Choices) -> Plan:
    """DPM-Solver++ and UniPC over a table of betas."""
    told = spaced(options, choices.steps, spare=1)
    table = sigma_table(process)
    sigmas, last = np.interp(told, np.arange(len(table)), table), table[0]
    if ladder := ladder_of(options):
        sigmas = ladder(*_ends(options, table[0], table[-1]), choices.steps)
        told = _timesteps(table, sigmas)
        dpm = options.published == "DPMSolverMultistepScheduler"
        if options.use_karras_sigmas and not (dpm and options.beta_schedule == "squaredcos_cap_v2"):
            told = np.round(told)
        told, last = told.astype(np.int64), last if dpm else sigmas[-1]
    sigmas = np.append(sigmas, last if options.final_sigmas_type == "sigma_min" else 0.0).astype(np.float32)
    levels = _levels(process, sigmas)
    return _plan(levels, told, _multistep_solver(options, levels), bound=bound_of(options))


def multistep_flow_plan(options: SchedulerOptions, process: RectifiedFlow, choices: Choices) -> Plan:
    """The same over a flow (Wan)."""
    shift = _shift(options, choices, options.flow_shift)
    unipc, entries = options.published == "UniPCMultistepScheduler", options.num_train_timesteps
    evenly = np.linspace(1.0, 1.0 / entries, choices.steps + 1)
    levels = shift_time(evenly[:-1] if unipc else (1.0 - evenly)[:0:-1], shift)
    levels = _stretched(options, levels)
    if unipc and abs(levels[0] - 1.0) < 1.0 - _NEARLY_ONE:
        levels = np.append(levels[0] - (1.0 - _NEARLY_ONE), levels[1:])
    told = (levels * entries).astype(np.int64)
    levels = np.append(levels, levels[-1] if options.final_sigmas_type == "sigma_min" else 0.0)
    return _plan(levels, told, _multistep_solver(options, levels), bound=bound_of(options))


def edm_plan(options: SchedulerOptions, process: EDM, choices: Choices) -> Plan:
    """Euler over EDM."""
    if options.sigma_schedule == "karras":
        sigmas = process.time_from_unit(np.linspace(1.0, 0.0, choices.steps) if choices.steps > 1 else np.ones(1))
    else:  # a single level is the smallest there
        sigmas = exponential(process.sigma_max, process.sigma_min, choices.steps)[::-1]
    sigmas = np.asarray(sigmas, np.float32)
    last = sigmas[-1] if options.final_sigmas_type == "sigma_min" else 0.0
    levels = np.minimum(np.append(sigmas, last), np.float32(process.sigma_max))
    return _plan(levels, 0.25 * np.log(sigmas), Euler(), noise_scale=float(np.hypot(process.sigma_max, 1.0)))


def flow_plan(options: SchedulerOptions, process: RectifiedFlow, choices: Choices) -> Plan:
    """Euler over a flow; its range is that of training, shifted, and is shifted once more."""
    entries = options.num_train_timesteps
    ends = np.array([1.0, 1.0 / entries], np.float32)
    if not options.use_dynamic_shifting:
        ends = shift_time(ends, np.float32(options.shift))
    levels = np.linspace(float(ends[0]) * entries, float(ends[1]) * entries, choices.steps) / entries
    levels = shift_time(levels, _shift(options, choices, options.shift))
    levels = _stretched(options, levels)
    if ladder := ladder_of(options):
        levels = ladder(levels[-1], levels[0], choices.steps)
    levels = np.append(levels, 0.0).astype(np.float32)
    solver = LCM(scaling=None) if options.stochastic_sampling else Euler()
    return _plan(levels, levels[:-1] * np.float32(entries), solver)


def spaced(options: SchedulerOptions, steps: int, spare: int = 0) -> np.ndarray:
    """Timesteps `[K]` of `timestep_spacing`, from the noisiest down.

    Raises:
      ValueError: timesteps beyond the table.
    """
    entries = options.num_train_timesteps
    if options.timestep_spacing == "leading":
        told = leading(entries, steps, options.steps_offset, spare)
    elif options.timestep_spacing == "trailing":
        told = trailing(entries, steps)
    else:
        told = linspace(entries, steps, spare)
    return _within(options, told)


def bound_of(options: SchedulerOptions) -> Bound | None:
    """What keeps x0_hat within bounds; thresholding goes before clipping."""
    if options.get("thresholding"):
        return DynamicThreshold(options.dynamic_thresholding_ratio, options.sample_max_value)
    return ClipRange(float(options.clip_sample_range)) if options.get("clip_sample") else None


def ladder_of(options: SchedulerOptions):
    """`(low, high, steps) -> sigmas`, or None for those of the table."""
    ladders = {"use_karras_sigmas": karras, "use_exponential_sigmas": exponential, "use_beta_sigmas": beta}
    return next((ladder for name, ladder in ladders.items() if options.get(name)), None)


def table_process(options: SchedulerOptions, prediction: str = "v") -> VP:
    """The table of betas as a process."""
    schedules = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
    table = {
        "prediction": prediction,
        "schedule": schedules[options.beta_schedule],
        "steps": options.num_train_timesteps,
        "beta_start": float(options.beta_start),
        "beta_end": float(options.beta_end),
        "zero_terminal_snr": bool(options.get("rescale_betas_zero_snr", False)),
        "snr_shift": float(options.get("snr_shift_scale", 1.0)),
    }
    if options.get("signal_scale") is None:
        return VP(**table)
    return ScaledVP(**table, signal=float(options.signal_scale), ramp=options.signal_ramp)


def sigma_table(process: VP) -> np.ndarray:
    """sigma / alpha of each entry, float32; finite where a terminal SNR of zero is replaced."""
    alpha, sigma = (table[1:] for table in process.table())
    squared = np.maximum(alpha**2, _LAST_SNR if process.zero_terminal_snr else 0.0)
    replaced = squared != alpha**2
    return np.where(replaced, np.sqrt((1.0 - squared) / squared), sigma / np.sqrt(squared)).astype(np.float32)


def _plan(levels: np.ndarray, told: np.ndarray, solver: Solver, lands: np.ndarray | None = None, **others) -> Plan:
    levels = np.asarray(levels, np.float32)
    if lands is not None:
        lands = np.asarray(lands, np.float32)
        lands = None if (lands == levels[1:]).all() else lands
    return Plan(levels, np.asarray(told, np.float32), solver, lands, **others)


def _multistep_solver(options: SchedulerOptions, levels: np.ndarray) -> Solver:
    before, end = (float(level) for level in np.asarray(levels, np.float32)[-2:])
    end = end if end < before else 0.0  # a last step that stays where it is has no order
    if options.published == "UniPCMultistepScheduler":
        return UniPC(function=options.solver_type, first_order_to=end)
    few = options.lower_order_final and len(levels) - 1 < 15
    last = end if options.euler_at_final or few else 0.0
    return DPMSolverPP2M(options.algorithm_type == "sde-dpmsolver++", options.solver_type, last)


def _levels(process: VP, sigmas: np.ndarray) -> np.ndarray:
    return invert_level(*process.table(), sigmas)


def _timesteps(table: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """Where sigmas stand between the entries, evenly in log sigma; kept within the table."""
    return np.interp(np.log(sigmas), np.log(table), np.arange(len(table)))


def _fractional(options: SchedulerOptions, steps: int) -> np.ndarray:
    if options.timestep_spacing == "linspace":
        return np.linspace(0, options.num_train_timesteps - 1, steps, dtype=np.float32)[::-1]
    return spaced(options, steps).astype(np.float32)


def _ends(options: SchedulerOptions, low: float, high: float) -> tuple[float, float]:
    ends = options.get("sigma_min"), options.get("sigma_max")
    return tuple(float(own if given is None else given) for given, own in zip(ends, (low, high)))


def _noise_scale(options: SchedulerOptions, sigmas: np.ndarray) -> float:
    largest = float(sigmas.max())
    return float(np.hypot(largest, 1.0)) if options.timestep_spacing == "leading" else largest


def _shift(options: SchedulerOptions, choices: Choices, shift: float) -> float:
    if not options.use_dynamic_shifting:
        return float(shift)
    if choices.mu is None:
        raise options.refuse("use_dynamic_shifting", "needs `mu` (see `dynamic_mu`)")
    return float(np.exp(choices.mu)) if options.time_shift_type == "exponential" else choices.mu


def _stretched(options: SchedulerOptions, levels: np.ndarray) -> np.ndarray:
    if not options.get("shift_terminal"):
        return levels
    if len(levels) < 2:
        raise options.refuse("shift_terminal", "needs at least 2 steps")
    return stretch_to(levels, options.shift_terminal)


def _within(options: SchedulerOptions, told: np.ndarray) -> np.ndarray:
    last = options.num_train_timesteps - 1
    if told.max() > last:
        raise options.refuse("steps_offset", f"puts a timestep at {told.max()}, beyond the last entry {last}")
    return told
