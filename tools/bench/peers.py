"""One model twice: our train step and its PyTorch peer, with the same weights and the same batch."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor, nn

from bench.programs import Shapes, batch_shapes, lively_weights, open_run, random_batch
from bench.torch_dit import TorchDiT, TorchText, backbone_state, text_state
from vdm_jax.diffusion.conditioning import drop_conditions
from vdm_jax.diffusion.leaves import noise_like
from vdm_jax.diffusion.rectified_flow import RectifiedFlow
from vdm_jax.diffusion.time_sampling import LogitNormal
from vdm_jax.diffusion.weighting import Uniform
from vdm_jax.models.dit import DiT, DiTConfig
from vdm_jax.models.text import TextConfig
from vdm_jax.objectives.denoising import DenoisingObjective, as_float
from vdm_jax.sharding import MeshConfig, make_mesh
from vdm_jax.training.ema import EMAConfig
from vdm_jax.training.optimizer import OptimizerConfig
from vdm_jax.training.recipe import plain
from vdm_jax.training.state import Params, StatePlan, TrainState, plan_state, stream
from vdm_jax.training.step import StepConfig, TrainStep, make_train_step

SEED = 0
TEXT_FEATURES = (128, 512)  # tokens and channels of the prompt of `wan_s`


@dataclasses.dataclass(frozen=True)
class Case:
    """Our side.

    Attributes:
      name: of the figures.
      plan, objective, model, text: of the run.
      clip: (frames, height, width, channels).
      batch: host arrays.
      params: the weights both sides start from.
    """

    name: str
    plan: StatePlan
    objective: DenoisingObjective
    model: DiTConfig
    text: TextConfig | None
    clip: tuple[int, int, int, int]
    batch: Mapping[str, np.ndarray]
    params: Params

    @property
    def optimizer(self) -> OptimizerConfig:
        return self.plan.stage.updates[0].optimizer

    def train_step(self) -> TrainStep:
        """The very step that `vdm train` runs, in float32."""
        return make_train_step(self.plan, StepConfig(), SEED)

    def state(self) -> TrainState:
        """A fresh state around the weights."""
        return self.plan.start_from(self.params)

    def draws(self) -> dict[str, np.ndarray]:
        """What the first step draws: `time [B, T]`, `noise` like the clip, `drop [B]`."""
        objective = self.objective
        key = jax.random.fold_in(jax.random.fold_in(stream(SEED, "train"), 0), 0)
        drawn = objective.draw(self.batch, key)
        x0 = as_float(jnp.asarray(self.batch["video"]))

        def drop(key: jax.Array) -> jax.Array:
            marked = drop_conditions({"tokens": jnp.zeros((1, 1))}, {"tokens": 1.0}, objective.dropout, key)
            return marked["tokens"][0, 0] > 0

        noise = jax.vmap(noise_like)(drawn["noise"], x0)
        return jax.device_get({"time": drawn["time"], "noise": noise, "drop": jax.vmap(drop)(drawn["drop"])})

    def forward(self, params: Params, x: jax.Array, time: jax.Array) -> jax.Array:
        """The networks' output, text encoder included."""
        networks = self.plan.networks.merge(params)
        cond, _ = self.objective.conditions(networks, self.batch)
        return networks["backbone"](x, time, cond)


def tiny_case(changes: Mapping[str, Any] | None = None) -> Case:
    """`configs/dit_tiny.py` at its batch size, with the optimiser that PyTorch has too."""
    run = open_run("dit_tiny", {"optimizer.kind": "adamw", **(changes or {})})
    batch = random_batch(batch_shapes(run), SEED, run.config.networks.text.vocab_size)
    networks, weights = run.config.networks, lively_weights(run.plan, SEED)
    return Case(
        "dit_tiny", run.plan, run.objective, networks.model, networks.text, run.config.clip_shape, batch, weights
    )


def wan_case(dim: int = 512, depth: int = 8, clip: tuple[int, int, int, int] = (8, 32, 32, 16)) -> Case:
    """A small Wan: heads of 64, FFN 4 D, QK norm over all heads, one modulation for all blocks, given text features."""
    text = {"text_dim": TEXT_FEATURES[1]}
    model = DiTConfig(channels=clip[3], patch=(1, 2, 2), dim=dim, depth=depth, heads=dim // 64, qk_norm="all", **text)
    objective = DenoisingObjective(RectifiedFlow())
    stage = plain(objective, OptimizerConfig(learning_rate=1e-4), 1000).stages[0]
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    plan = plan_state(lambda rngs: {"backbone": DiT(model, rngs)}, stage, mesh, ema=EMAConfig())
    shapes: Shapes = {"video": ((1, *clip), jnp.float32), "tokens": ((1, *TEXT_FEATURES), jnp.float32)}
    return Case("wan_s", plan, objective, model, None, clip, random_batch(shapes, SEED), lively_weights(plan, SEED))


class TorchLoss(nn.Module):
    """The networks and the rectified-flow loss: `(x0, noise, time, batch) -> scalar`."""

    def __init__(self, case: Case):
        super().__init__()
        process = case.objective.process
        assert isinstance(process, RectifiedFlow), process
        assert isinstance(process.times, LogitNormal), process
        assert isinstance(process.weighting, Uniform), process
        self.x0_prediction = process.prediction == "x0"
        self.weighted = (process.prediction, process.weighting.space) == ("x0", "velocity")
        assert self.weighted or process.weighting.space in ("output", process.prediction), process
        self.backbone = TorchDiT(case.model, case.model.token_grid(*case.clip[:3]))
        self.backbone.load_state_dict(backbone_state(case.params["backbone"]))
        self.text = None
        if case.text is not None:
            self.text = TorchText(case.text, len(case.params["text"]["tokens"]))
            self.text.load_state_dict(text_state(case.params["text"]))

    def network(self, x: Tensor, time: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """The output at `time [B, T]` in [0, 1]."""
        if self.text is None:
            return self.backbone(x, 1000 * time, batch["tokens"])
        ids, mask = batch["text_ids"], batch["text_mask"]
        return self.backbone(x, 1000 * time, self.text(ids, mask), mask)

    def forward(self, x0: Tensor, noise: Tensor, time: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        t = time[..., None, None, None]
        output = self.network(torch.lerp(x0, noise, t), time, batch)
        error = (output - (x0 if self.x0_prediction else noise - x0)) ** 2
        if self.weighted:  # the velocity's error is 1 / t of that of x0
            error = t.clamp(min=0.05) ** -2 * error
        return error.mean()


class TorchTrainer:
    """What a PyTorch script does in a step: draw, loss, backward, clip, fused AdamW, averages.

    Args:
      case: our side; weights are copied from it.
      compiled: whether to put the loss through `torch.compile`.
    """

    def __init__(self, case: Case, compiled: bool = False):
        self.module = TorchLoss(case)
        self.loss = torch.compile(self.module) if compiled else self.module
        self.config, objective = case.optimizer, case.objective
        self.times = objective.process.times
        self.batch = {name: torch.from_numpy(value) for name, value in case.batch.items()}
        self.drop_rate = objective.dropout.get("tokens", 0.0)
        self.null = torch.tensor(objective.null_ids), torch.tensor(objective.null_mask)
        named = list(self.module.named_parameters())
        self.parameters = [p for _, p in named]
        kernels = {name for name, module in self.module.named_modules() if isinstance(module, nn.Linear)}
        matrix = [(name.removesuffix(".weight") in kernels, p) for name, p in named]
        groups = [
            {"params": [p for decays, p in matrix if decays], "weight_decay": self.config.weight_decay},
            {"params": [p for decays, p in matrix if not decays], "weight_decay": 0.0},
        ]
        betas = (self.config.beta1, self.config.beta2)
        self.optimizer = torch.optim.AdamW(groups, self.config.learning_rate, betas, self.config.eps, fused=True)
        self.averages = {decay: [p.detach().clone() for p in self.parameters] for decay in case.plan.ema.decays}

    def step(self, draws: Mapping[str, Tensor] | None = None) -> tuple[float, float]:
        """One update; returns the loss and the norm of the gradients.

        Args:
          draws: `time`, `noise` and `drop`; drawn afresh by default.
        """
        video = self.batch["video"]
        x0 = video.float() / 127.5 - 1 if video.dtype == torch.uint8 else video
        draws = self._draw(x0) if draws is None else draws
        loss = self.loss(x0, draws["noise"], draws["time"], self._dropped(draws["drop"]))
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for decay, average in self.averages.items():
                torch._foreach_lerp_(average, self.parameters, 1 - decay)
        return loss.item(), norm.item()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """The networks' output without gradients."""
        with torch.no_grad():
            return self.module.network(x, time, self.batch)

    def _draw(self, x0: Tensor) -> dict[str, Tensor]:
        batch, frames = x0.shape[:2]
        time = (self.times.mean + self.times.std * torch.randn(batch, 1)).sigmoid().expand(batch, frames)
        return {"time": time, "noise": torch.randn_like(x0), "drop": torch.rand(batch) < self.drop_rate}

    def _dropped(self, drop: Tensor) -> dict[str, Tensor]:
        if self.module.text is None:
            return self.batch
        pairs = zip(("text_ids", "text_mask"), self.null, strict=True)
        return {name: torch.where(drop[:, None], null, self.batch[name]) for name, null in pairs}
