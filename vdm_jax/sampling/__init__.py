"""The sampler loop, denoiser transforms and level matrices.

Start with `sampler.py`: everything else is something you hand to `sample`.
"""

from vdm_jax.sampling.denoiser import Denoiser, make_denoiser, told_at
from vdm_jax.sampling.generate import SampleConfig, make_generator
from vdm_jax.sampling.guidance import guided, guided_nested
from vdm_jax.sampling.known import Known, replace_known
from vdm_jax.sampling.sampler import Hooks, StepInfo, Trajectory, sample
from vdm_jax.sampling.tau import (
    check_lands,
    check_tau,
    image_to_video,
    interpolation,
    prediction,
    staircase,
    uniform,
    with_given,
)

__all__ = [
    "Denoiser",
    "Hooks",
    "Known",
    "SampleConfig",
    "StepInfo",
    "Trajectory",
    "check_lands",
    "check_tau",
    "guided",
    "guided_nested",
    "image_to_video",
    "interpolation",
    "make_denoiser",
    "make_generator",
    "prediction",
    "replace_known",
    "sample",
    "staircase",
    "told_at",
    "uniform",
    "with_given",
]
