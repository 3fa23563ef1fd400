"""Tiny published pipelines with weights that hide nothing, run there and imported here.

pipeline = diffusers.WanPipeline(tokenizer=tokenizer(), text_encoder=network(...), ...)
run = imported(pipeline, tmp_path)
theirs = run_there(pipeline, latents=noise, prompt="a red square", ...)
ours = run_here(run, Request(...), Draws(latents=noise))
check_same(ours, theirs)
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from vdm_jax.interop.families.family import Family
from vdm_jax.interop.imported import import_folder
from vdm_jax.interop.parity import build_published, redraw
from vdm_jax.interop.pipelines.families import open_pipeline
from vdm_jax.interop.pipelines.pipeline import generate
from vdm_jax.interop.pipelines.request import Draws, Request

WORDS = ["<pad>", "</s>", "<unk>", "<s>", "a", "red", "blue", "square", "moves", "left", "blurred"]
STD = 0.1  # 0.02 is too little for what a prompt says to be seen behind so few and so narrow blocks
BAR = 1e-3
SCHEDULERS = Path(__file__).parents[1] / "published" / "schedulers"


class Run(NamedTuple):
    """`visited [K, N, t, h, w, c]`, latents after each step, and `video [N, T, H, W, 3]` in [0, 1]."""

    visited: np.ndarray
    video: np.ndarray


def tokenizer(length: int = 512, start: bool = False, words: Sequence[str] = WORDS) -> Any:
    """A tokenizer of transformers with words for tokens; `start` puts one in front of prompts, as CLIP's does."""
    import transformers

    ids = {word: i for i, word in enumerate(words)}
    inner = tokenizers.Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = [(word, ids[word]) for word in (("<s>", "</s>") if start else ("</s>",))]
    single = "<s> $A </s>" if start else "$A </s>"
    inner.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=length
    )


def network(family: Family, published: Mapping[str, Any], seed: int = 0, std: float = STD) -> Any:
    """A published network whose every weight is drawn again."""
    module = build_published(family, published)
    redraw(module, std, seed)
    return module


def scheduler(name: str, **changes: Any) -> Any:
    """A published scheduler by the name of its file, with options set otherwise."""
    import diffusers

    said = {**json.loads((SCHEDULERS / f"{name}.json").read_text()), **changes}
    return getattr(diffusers, said["_class_name"]).from_config(said)


def imported(pipeline: Any, folder: Path, **index: Any) -> Path:
    """Saves a pipeline and imports it; `index` is set otherwise in `model_index.json`."""
    pipeline.save_pretrained(folder / "published")
    file = folder / "published" / "model_index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **index}))
    import_folder(folder / "published", folder / "run")
    return folder / "run"


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal, float32."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def picture(*shape: int, seed: int = 0) -> np.ndarray:
    """Smooth colours, uint8 `[..., H, W, 3]`."""
    axes = np.meshgrid(*(np.linspace(0.0, 1.0, size) for size in shape[:-1]), indexing="ij")
    phases = np.random.default_rng(seed).uniform(0.0, 6.0, (3, len(axes) + 1))
    waves = [np.sin(sum(p * axis for p, axis in zip(phase, axes)) + phase[-1]) for phase in phases]
    return np.uint8(np.stack(waves, axis=-1) * 127.0 + 128.0)


def to_torch(clip: np.ndarray) -> Any:
    """`[N, T, h, w, c]` to a tensor `[N, c, T, h, w]`."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(clip, -1, 1)))


def run_there(pipeline: Any, channels: int = 1, **call: Any) -> Run:
    """Calls a published pipeline whose latents are `[N, c, t, h, w]`, or with `channels` at another place."""
    visited = []

    def keep(_, step, timestep, tensors):
        visited.append(np.moveaxis(tensors["latents"].float().numpy().copy(), channels, -1))
        return {}

    pipeline.set_progress_bar_config(disable=True)
    video = pipeline(**call, callback_on_step_end=keep, output_type="np").frames
    return Run(np.stack(visited), np.asarray(video))


def run_here(run: Path, request: Request, draws: Draws | None = None, **options: Any) -> Run:
    """All clips of a request, with what was visited on the way."""
    made = generate(open_pipeline(run), request, draws=draws, batch=len(request.prompts), record=True, **options)
    (clips,) = made.clips
    np.testing.assert_array_equal(clips.latents, clips.visited[-1])
    return Run(clips.visited, clips.video)


def check_same(ours: Run, theirs: Run, bar: float = BAR) -> None:
    """Every step's latents, and the clip."""
    assert ours.visited.shape == theirs.visited.shape
    for step, (here, there) in enumerate(zip(ours.visited, theirs.visited)):
        error = np.abs(here - there).max() / np.abs(there).max()
        assert error < bar, f"step {step}: {error:.2e}"
    assert ours.video.shape == theirs.video.shape
    assert np.abs(ours.video - theirs.video).max() < bar
    assert np.ptp(theirs.video) > 0.05, "a clip of one colour says nothing"
