"""Processes and solvers to and from the sections of a config.

    process = {"kind": "rectified_flow", "shift": 3.0,
               "times": {"kind": "logit_normal", "independent": 0.2},
               "weighting": {"kind": "uniform", "space": "velocity"}}

A process goes into every checkpoint in this form, floats as Python floats, so that JSON brings it back exactly.
"""

from collections.abc import Mapping
from typing import Any

from vdm_jax.config import build_kind, to_dict
from vdm_jax.diffusion.consistency import LCM, TCD
from vdm_jax.diffusion.edm import EDM
from vdm_jax.diffusion.multistep import DPMSolverPP2M, UniPC
from vdm_jax.diffusion.process import Process
from vdm_jax.diffusion.rectified_flow import RectifiedFlow
from vdm_jax.diffusion.scaled_vp import ScaledVP
from vdm_jax.diffusion.solvers import DDIM, Euler, Heun, Solver
from vdm_jax.diffusion.time_sampling import TIME_SAMPLERS
from vdm_jax.diffusion.vp import VP
from vdm_jax.diffusion.weighting import WEIGHTINGS

PROCESSES: dict[str, type[Process]] = {"rectified_flow": RectifiedFlow, "vp": VP, "scaled_vp": ScaledVP, "edm": EDM}
SOLVERS: dict[str, type[Solver]] = {
    "ddim": DDIM,
    "euler": Euler,
    "heun": Heun,
    "dpm_solver_pp_2m": DPMSolverPP2M,
    "unipc": UniPC,
    "lcm": LCM,
    "tcd": TCD,
}
_PARTS = {"times": TIME_SAMPLERS, "weighting": WEIGHTINGS}


def process_from(section: Mapping[str, Any], path: str = "config.process") -> Process:
    """Builds a process from a config section with `kind`; `times` and `weighting` are sections with a `kind` too.

    Raises:
      ValueError: an unknown kind or key, or a wrong value; names the full path.
    """
    if not hasattr(section, "items"):
        raise ValueError(f"{path}: expected a section with `kind`, got {section!r}")
    fields = dict(section.items())
    for part, kinds in _PARTS.items():
        if hasattr(fields.get(part), "items"):
            fields[part] = build_kind(kinds, fields[part], f"{path}.{part}")
    return build_kind(PROCESSES, fields, path)


def process_to_dict(process: Process) -> dict[str, Any]:
    """Writes a process as JSON types; `process_from` is the inverse, exactly."""
    written = {"kind": _kind_of(process, PROCESSES), **to_dict(process)}
    for part, kinds in _PARTS.items():
        value = getattr(process, part)
        written[part] = {"kind": _kind_of(value, kinds), **to_dict(value)}
    return written


def solver_from(section: Mapping[str, Any], path: str = "config.solver") -> Solver:
    """Builds a solver from a config section such as `{"kind": "ddim", "eta": 1.0}`.

    Raises:
      ValueError: an unknown kind or key, or a wrong value; names the full path.
    """
    return build_kind(SOLVERS, section, path)


def _kind_of(value: Any, kinds: Mapping[str, type]) -> str:
    for kind, cls in kinds.items():
        if type(value) is cls:
            return kind
    raise ValueError(f"{type(value).__name__}: not one of {', '.join(c.__name__ for c in kinds.values())}")
