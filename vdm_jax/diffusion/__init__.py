"""The mathematics of diffusion: processes, time sampling, weighting, solver steps.  No networks, no I/O.

Start with `process.py` (the shared formulas), then `rectified_flow.py`; `solvers.py` states what a solver is.
"""

from vdm_jax.diffusion.bounds import Bound, ClipRange, DynamicThreshold
from vdm_jax.diffusion.conditioning import drop_conditions, unconditional
from vdm_jax.diffusion.configuration import PROCESSES, SOLVERS, process_from, process_to_dict, solver_from
from vdm_jax.diffusion.consistency import LCM, TCD, ConsistencyGrid
from vdm_jax.diffusion.edm import EDM
from vdm_jax.diffusion.leaves import noise_like
from vdm_jax.diffusion.multistep import DPMSolverPP2M, UniPC
from vdm_jax.diffusion.plms import PLMS
from vdm_jax.diffusion.process import Process
from vdm_jax.diffusion.rectified_flow import RectifiedFlow, resolution_shift
from vdm_jax.diffusion.scaled_vp import ScaledVP
from vdm_jax.diffusion.solvers import DDIM, Euler, Heun, Solver
from vdm_jax.diffusion.vp import VP

__all__ = [
    "DDIM",
    "EDM",
    "LCM",
    "PLMS",
    "PROCESSES",
    "SOLVERS",
    "TCD",
    "VP",
    "Bound",
    "ClipRange",
    "ConsistencyGrid",
    "DPMSolverPP2M",
    "DynamicThreshold",
    "Euler",
    "Heun",
    "Process",
    "RectifiedFlow",
    "ScaledVP",
    "Solver",
    "UniPC",
    "drop_conditions",
    "noise_like",
    "process_from",
    "process_to_dict",
    "resolution_shift",
    "solver_from",
    "unconditional",
]
