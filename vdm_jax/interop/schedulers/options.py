"""The options of published schedulers: each class's own, their defaults, and those of their values that exist here.

A `scheduler_config.json` often carries options of the scheduler that it was converted from.  They change nothing there
and nothing here, and are only written back; a name that no scheduler has is a mistake.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vdm_jax.errors import did_you_mean

_TABLE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "steps_offset": 0,
    "rescale_betas_zero_snr": False,
}
_LATENT = {"beta_start": 0.00085, "beta_end": 0.012}
_CLIP = {"clip_sample": True, "clip_sample_range": 1.0}
_THRESHOLD = {"thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0}
_LADDERS = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
_ENDS = {"sigma_min": None, "sigma_max": None}
_FLOW = {"use_flow_sigmas": False, "flow_shift": 1.0, "use_dynamic_shifting": False, "time_shift_type": "exponential"}
_MULTISTEP = {
    **_TABLE,
    **_THRESHOLD,
    **_LADDERS,
    **_FLOW,
    "timestep_spacing": "linspace",
    "solver_order": 2,
    "lower_order_final": True,
    "final_sigmas_type": "zero",
}
_DISTILLED = {
    **_TABLE,
    **_LATENT,
    **_CLIP,
    **_THRESHOLD,
    "clip_sample": False,
    "beta_schedule": "scaled_linear",
    "original_inference_steps": 50,
    "set_alpha_to_one": True,
    "timestep_spacing": "leading",
    "timestep_scaling": 10.0,
}
_COG = {
    **_TABLE,
    **_LATENT,
    **_CLIP,
    "beta_schedule": "scaled_linear",
    "sample_max_value": 1.0,
    "set_alpha_to_one": True,
    "timestep_spacing": "leading",
    "snr_shift_scale": 3.0,
}

DEFAULTS: dict[str, dict[str, Any]] = {
    "DDPMScheduler": {**_TABLE, **_CLIP, **_THRESHOLD, "variance_type": "fixed_small", "timestep_spacing": "leading"},
    "DDIMScheduler": {**_TABLE, **_CLIP, **_THRESHOLD, "set_alpha_to_one": True, "timestep_spacing": "leading"},
    "DDIMInverseScheduler": {**_TABLE, **_CLIP, "set_alpha_to_one": True, "timestep_spacing": "leading"},
    "EulerDiscreteScheduler": {
        **_TABLE,
        **_LADDERS,
        **_ENDS,
        "interpolation_type": "linear",
        "timestep_spacing": "linspace",
        "timestep_type": "discrete",
        "final_sigmas_type": "zero",
    },
    "EulerAncestralDiscreteScheduler": {**_TABLE, "timestep_spacing": "linspace"},
    "HeunDiscreteScheduler": {
        **{name: value for name, value in _TABLE.items() if name != "rescale_betas_zero_snr"},
        **_LATENT,
        **_CLIP,
        **_LADDERS,
        "clip_sample": False,
        "timestep_spacing": "linspace",
    },
    "DPMSolverMultistepScheduler": {
        **_MULTISTEP,
        "algorithm_type": "dpmsolver++",
        "solver_type": "midpoint",
        "euler_at_final": False,
        "use_lu_lambdas": False,
        "lambda_min_clipped": -float("inf"),
        "variance_type": None,
    },
    "UniPCMultistepScheduler": {
        **_MULTISTEP,
        **_ENDS,
        "predict_x0": True,
        "solver_type": "bh2",
        "disable_corrector": [],
        "solver_p": None,
        "shift_terminal": None,
    },
    "LCMScheduler": _DISTILLED,
    "TCDScheduler": _DISTILLED,
    "CogVideoXDDIMScheduler": _COG,
    "CogVideoXDPMScheduler": _COG,
    "PNDMScheduler": {
        **{name: value for name, value in _TABLE.items() if name != "rescale_betas_zero_snr"},
        "set_alpha_to_one": False,
        "skip_prk_steps": False,
        "timestep_spacing": "leading",
    },
    "EDMEulerScheduler": {
        "sigma_min": 0.002,
        "sigma_max": 80.0,
        "sigma_data": 0.5,
        "sigma_schedule": "karras",
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "rho": 7.0,
        "final_sigmas_type": "zero",
    },
    "FlowMatchEulerDiscreteScheduler": {
        **_LADDERS,
        "num_train_timesteps": 1000,
        "shift": 1.0,
        "use_dynamic_shifting": False,
        "base_shift": 0.5,
        "max_shift": 1.15,
        "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
        "invert_sigmas": False,
        "shift_terminal": None,
        "time_shift_type": "exponential",
        "stochastic_sampling": False,
    },
}

# Samplers of models that were published without one of these files; no classes of diffusers.
OWN: dict[str, dict[str, Any]] = {
    "ScaledDDIMScheduler": {  # of VideoCrafter2
        **_TABLE,
        **_LATENT,
        "beta_schedule": "scaled_linear",
        "set_alpha_to_one": False,
        "signal_ramp": 400,
        "signal_scale": 0.7,
        "steps_offset": 1,
        "timestep_spacing": "leading",
    },
}

# What is built here, for every scheduler that has the option; a class may allow less.
_ANYWHERE: dict[str, tuple] = {
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "trained_betas": (None,),
    "prediction_type": ("epsilon", "v_prediction", "sample"),
    "timestep_spacing": ("leading", "trailing", "linspace"),
    "timestep_type": ("discrete", "continuous"),
    "interpolation_type": ("linear",),
    "final_sigmas_type": ("zero", "sigma_min"),
    "solver_order": (2,),
    "lower_order_final": (True,),
    "use_lu_lambdas": (False,),
    "lambda_min_clipped": (-float("inf"),),
    "predict_x0": (True,),
    "disable_corrector": ([], ()),
    "solver_p": (None,),
    "invert_sigmas": (False,),
    "time_shift_type": ("exponential", "linear"),
    "sigma_schedule": ("karras", "exponential"),
    "algorithm_type": ("dpmsolver++", "sde-dpmsolver++"),
}
_ALLOWED: dict[str, dict[str, tuple]] = {
    "DDPMScheduler": {"variance_type": ("fixed_small", "fixed_large")},
    "DDIMInverseScheduler": {"timestep_spacing": ("leading", "trailing"), "set_alpha_to_one": (False,)},
    "EulerAncestralDiscreteScheduler": {"prediction_type": ("epsilon", "v_prediction")},
    "DPMSolverMultistepScheduler": {
        "solver_type": ("midpoint", "heun"),
        "variance_type": (None,),
        "lower_order_final": (True, False),
        "time_shift_type": ("exponential",),
        "prediction_type": ("epsilon", "v_prediction", "sample", "flow_prediction"),
    },
    "UniPCMultistepScheduler": {
        "solver_type": ("bh1", "bh2"),
        "time_shift_type": ("exponential",),
        "prediction_type": ("epsilon", "v_prediction", "sample", "flow_prediction"),
    },
    "EDMEulerScheduler": {"prediction_type": ("epsilon", "v_prediction")},
    "PNDMScheduler": {
        "prediction_type": ("epsilon",),
        "skip_prk_steps": (True,),
        "timestep_spacing": ("leading",),
    },
    "ScaledDDIMScheduler": {"prediction_type": ("epsilon",), "rescale_betas_zero_snr": (False,)},
}
_EVERY_OPTION = {name for options in (DEFAULTS | OWN).values() for name in options}


@dataclasses.dataclass(frozen=True)
class SchedulerOptions:
    """The options of one scheduler, checked and complete; `options.beta_start` and the like.

    Attributes:
      published: name of the class.
      values: every option of that class.
      carried: what else the file said.
    """

    published: str
    values: Mapping[str, Any]
    carried: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        try:
            return object.__getattribute__(self, "values")[name]
        except KeyError:
            raise AttributeError(name) from None

    def get(self, name: str, default: Any = None) -> Any:
        """An option that not every class has."""
        return self.values.get(name, default)

    def refuse(self, name: str, why: str) -> ValueError:
        """The error about an option that does not go with the others."""
        return ValueError(f"{self.published}: {name}={self.values[name]!r} {why}")


def read_options(config: Mapping[str, Any]) -> SchedulerOptions:
    """`scheduler_config.json` -> its options.

    Raises:
      ValueError: a class or an option that is not known, or a value that is not built here.
    """
    published = config.get("_class_name")
    known = DEFAULTS | OWN
    if published not in known:
        raise ValueError(f"scheduler_config.json: _class_name: {did_you_mean(published, known)}")
    defaults = known[published]
    values, carried = dict(defaults), {}
    for name, value in config.items():
        if name in defaults:
            values[name] = _typed(published, name, value, defaults[name])
        elif name not in _EVERY_OPTION and not name.startswith("_"):
            raise ValueError(f"{published}: scheduler_config.json: {did_you_mean(name, defaults)}")
        elif name != "_class_name":
            carried[name] = value
    for name, allowed in (_ANYWHERE | _ALLOWED.get(published, {})).items():
        if name in values and values[name] not in allowed:
            raise ValueError(
                f"{published}: {name}={values[name]!r} is not supported (only {' or '.join(map(repr, allowed))})"
            )
    ladders = [name for name in _LADDERS if values.get(name)]
    if len(ladders) > 1:
        raise ValueError(f"{published}: {ladders[0]} and {ladders[1]} exclude each other")
    return SchedulerOptions(published, values, carried)


def _typed(published: str, name: str, value: Any, default: Any) -> Any:
    """The value, if it is of the kind of the default; null stands for the default, as in published files."""
    if value is None or default is None:
        return default if value is None else value
    number = (int, float)
    kind = bool if isinstance(default, bool) else number if isinstance(default, number) else type(default)
    kind = (list, tuple) if kind is list else kind
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{published}: {name}={value!r} is not like {default!r}")
    return value
