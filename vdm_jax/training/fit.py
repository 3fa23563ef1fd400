"""A recipe run from its first stage to its last in memory: toy studies, base models, tests of recipes.

    trainer = Trainer(make_networks, recipe, ema=EMAConfig((0.99,)))
    fitted = trainer.run(data, seed=0)                 # fresh weights
    fitted = trainer.run(data, seed=1, params=base)    # from given ones

The step is that of `vdm train` (`training.step`), so guards, averages, frozen weights and targets behave as there;
what is missing is everything that has to do with files: no checkpoint, no log, no resume.  A trainer compiles each
stage once, whatever the number of runs.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vdm_jax.sharding import MeshConfig, make_mesh, place_batch
from vdm_jax.training.ema import EMAConfig, ema_name
from vdm_jax.training.guard import GuardConfig
from vdm_jax.training.recipe import Recipe, Stage
from vdm_jax.training.state import MakeNetworks, NetworkDefinitions, Params, StatePlan, plan_state, weights
from vdm_jax.training.step import StepConfig, TrainStep, make_train_step

Batch = Mapping[str, Any]
Data = Callable[[str, int], Batch]


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What training left.

    Attributes:
      params: `{network: nested dict}`, averaged if the trainer keeps an average.
      raw: the same without averaging.
      losses: stage -> `[steps]` float32, the loss of its first update.
      networks: `networks.merge(params)` gives modules.
    """

    params: Params
    raw: Params
    losses: Mapping[str, np.ndarray]
    networks: NetworkDefinitions

    def merged(self) -> dict[str, Any]:
        """The networks as modules."""
        return self.networks.merge(self.params)


class Trainer:
    """Runs a recipe; see the module docstring.

    Args:
      make_networks: `nnx.Rngs -> {"backbone": module, ...}`.
      recipe: stages in order, each from the (raw) weights that the one before it left.
      ema: averages to keep; the first one is what `Fitted.params` are.  Default none.
      step: accumulation and precision.
      mesh: default that of one device.
    """

    def __init__(
        self,
        make_networks: MakeNetworks,
        recipe: Recipe,
        ema: EMAConfig | None = None,
        step: StepConfig | None = None,
        mesh: Mesh | None = None,
    ):
        self.make_networks, self.recipe = make_networks, recipe
        self.ema, self.config = ema or EMAConfig(()), step or StepConfig()
        self.mesh = mesh or make_mesh(MeshConfig(data=1), jax.devices()[:1])

    def run(self, data: Data, seed: int, params: Params | None = None) -> Fitted:
        """Trains.

        Args:
          data: (stage, step of the stage) -> batch; arrays on the host or on the device.
          seed: of weights and of everything drawn in training.
          params: to start from; None draws them.

        Raises:
          ValueError: parameters that are not those of the networks; a recipe that cannot run.
        """
        losses, state, plan = {}, None, None
        for stage in self.recipe.stages:
            plan, step = self._stage(stage.name)
            state = plan.init(seed) if params is None else plan.start_from(params)
            seeded = dataclasses.replace(step, seed=seed)
            curve = []
            for index in range(stage.steps):
                state, metrics = seeded(state, place_batch(data(stage.name, index), self.mesh))
                curve.append(metrics["loss"] if "loss" in metrics else metrics[f"{stage.updates[0].name}/loss"])
            losses[stage.name] = np.asarray(jax.device_get(curve), np.float32)
            params = state.params
        average = ema_name(self.ema.decays[0]) if self.ema.decays else None
        return Fitted(weights(state, average), state.params, losses, plan.networks)

    def init(self, seed: int) -> Params:
        """The weights that `run` would draw for a seed."""
        return self._stage(self.recipe.stages[0].name)[0].init(seed).params

    @functools.cache  # noqa: B019 (a trainer lives as long as its programs are of use)
    def _stage(self, name: str) -> tuple[StatePlan, TrainStep]:
        stage: Stage = next(stage for stage in self.recipe.stages if stage.name == name)
        plan = plan_state(self.make_networks, stage, self.mesh, ema=self.ema, guard=GuardConfig())
        return plan, make_train_step(plan, self.config, 0)


def batches(arrays: Mapping[str, Any], size: int, seed: int, **constant: Any) -> Data:
    """Data in memory: every epoch in a new order, the same for the same seed.

    Args:
      arrays: key -> `[N, ...]`, N examples; kept on the device, as far as they are device arrays.
      size: of a batch, at most N.
      seed: of the order.
      constant: added to each batch as it is.

    Raises:
      ValueError: arrays of different lengths, or fewer examples than a batch.
    """
    lengths = {len(value) for value in jax.tree.leaves(dict(arrays))}
    if len(lengths) != 1 or not 1 <= size <= min(lengths):
        raise ValueError(f"size: {size} examples a batch of arrays with {sorted(lengths)} examples")
    count = lengths.pop()
    per_epoch = count // size

    @functools.lru_cache(maxsize=2)
    def order(stage: str, epoch: int) -> np.ndarray:
        words = [seed, epoch, *stage.encode()]
        return np.random.default_rng(words).permutation(count)

    def batch(stage: str, step: int) -> Batch:
        epoch, place = divmod(step, per_epoch)
        chosen = order(stage, epoch)[place * size : (place + 1) * size]
        return jax.tree.map(lambda x: x[chosen], dict(arrays)) | constant

    return batch
