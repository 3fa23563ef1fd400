"""Every published pipeline that can be run; a further one is one line."""

from collections.abc import Mapping
from pathlib import Path

from jax.sharding import Mesh

from vdm_jax.errors import did_you_mean
from vdm_jax.interop.pipelines.animatediff import AnimateDiff, AnimateDiffControlNet, AnimateDiffVideoToVideo
from vdm_jax.interop.pipelines.cogvideox import CogVideoXImageToVideo, CogVideoXTextToVideo, CogVideoXVideoToVideo
from vdm_jax.interop.pipelines.latent_diffusion import StableDiffusion
from vdm_jax.interop.pipelines.latte import Latte
from vdm_jax.interop.pipelines.modelscope import ModelScope, ModelScopeVideoToVideo
from vdm_jax.interop.pipelines.opened import Params, open_parts
from vdm_jax.interop.pipelines.pipeline import Pipeline
from vdm_jax.interop.pipelines.svd import StableVideoDiffusion
from vdm_jax.interop.pipelines.videocrafter import VideoCrafter
from vdm_jax.interop.pipelines.wan import WanImageToVideo, WanTextToVideo, WanVideoToVideo

PIPELINES: dict[str, type[Pipeline]] = {
    "AnimateDiffControlNetPipeline": AnimateDiffControlNet,
    "AnimateDiffPipeline": AnimateDiff,
    "AnimateDiffVideoToVideoPipeline": AnimateDiffVideoToVideo,
    "CogVideoXImageToVideoPipeline": CogVideoXImageToVideo,
    "CogVideoXPipeline": CogVideoXTextToVideo,
    "CogVideoXVideoToVideoPipeline": CogVideoXVideoToVideo,
    "LattePipeline": Latte,
    "StableDiffusionPipeline": StableDiffusion,
    "StableVideoDiffusionPipeline": StableVideoDiffusion,
    "TextToVideoSDPipeline": ModelScope,
    "VideoToVideoSDPipeline": ModelScopeVideoToVideo,
    "VideoCrafterPipeline": VideoCrafter,
    "WanImageToVideoPipeline": WanImageToVideo,
    "WanPipeline": WanTextToVideo,
    "WanVideoToVideoPipeline": WanVideoToVideo,
}


def open_pipeline(run: Path, mesh: Mesh | None = None, trained: Mapping[str, Params] | None = None) -> Pipeline:
    """The pipeline of an imported run; no weights are read yet.

    Args:
      run: directory that `vdm import` made of a whole pipeline.
      mesh: where weights and clips go; None is one device.
      trained: weights that stand in for imported ones, by the name of their component (`transformer` ...).

    Raises:
      ValueError: no imported run, one of a component alone, or a pipeline that is not known or lacks a part.
      RunError: its record is damaged.
    """
    opened = open_parts(run, mesh, trained)
    if opened.published not in PIPELINES:
        raise ValueError(f"{run}: pipeline: {did_you_mean(opened.published, PIPELINES)}")
    return PIPELINES[opened.published](opened)
