"""The train state, and where each of its arrays lives.

    TrainState.step       int32, finished steps
              .params     {network: nested dict}, the masters
              .opt_state  {update: optax state}, over the parameters that update trains
              .ema        {"0.999": {network: nested dict}}, over the parameters any update trains
              .guard      {update: counters}

All are plain nested dicts keyed by strings, so a step call costs little Python, and a checkpoint is readable without
this code.  What is static (graph definitions, shardings, filters) is in `StatePlan`, which is made without touching
a device: from it come the sharded start (each device computes only its own shards), the abstract state to restore
into on any mesh, and the program of the step for machines that are not there.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import AbstractMesh, Mesh

from vdm_jax.errors import did_you_mean
from vdm_jax.nn.path_filter import Path, select
from vdm_jax.sharding import LogicalRules, activation_sharding, logical_axes, param_shardings, replicated, undivided
from vdm_jax.training.ema import EMAConfig, ema_name
from vdm_jax.training.guard import GuardConfig, GuardState, init_guard
from vdm_jax.training.optimizer import make_optimizer
from vdm_jax.training.precision import master_copy
from vdm_jax.training.recipe import Stage

Params = dict[str, Any]
MakeNetworks = Callable[[nnx.Rngs], Mapping[str, nnx.Module]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that changes from step to step; see the module docstring."""

    step: jax.Array
    params: Params
    opt_state: dict[str, optax.OptState]
    ema: dict[str, Params]
    guard: dict[str, GuardState]


@dataclasses.dataclass(frozen=True)
class NetworkDefinitions:
    """The static half of the networks: `merge(params)` gives modules that can be called.

    Attributes:
      graphdefs: of `nnx.split`, one per network.
      abstract: nested dict of `ShapeDtypeStruct`, the parameters.
      axes: nested dict of their logical axes.
      trainable: paths that are `nnx.Param`; other variables (fixed tables) are held and never trained.
    """

    graphdefs: Mapping[str, nnx.GraphDef]
    abstract: Params
    axes: dict[str, Any]
    trainable: frozenset[Path]

    def merge(self, params: Mapping[str, Any]) -> dict[str, nnx.Module]:
        """Modules with these parameters; to be called inside a trace, or once for use outside of training."""
        return {name: nnx.merge(graphdef, _module_keys(params[name])) for name, graphdef in self.graphdefs.items()}


@dataclasses.dataclass(frozen=True)
class StatePlan:
    """A train state that does not exist yet.

    Attributes:
      networks: their static half.
      stage: the updates.
      trains: which paths each update trains.
      optimizers: the optax chain of each update.
      ema, guard: their configs.
      masters: precision of weights and moments.
      frozen: precision of weights that no update trains.
      mesh, rules: where things live.
      abstract: the whole state as `ShapeDtypeStruct` with concrete `NamedSharding`s, for restore and AOT compiles.
      undivided: parameters whose dims the mesh does not divide, one line each.
      make: the function that builds the networks.
    """

    networks: NetworkDefinitions
    stage: Stage
    trains: Mapping[str, frozenset[Path]]
    optimizers: Mapping[str, optax.GradientTransformation]
    ema: EMAConfig
    guard: GuardConfig
    masters: str
    frozen: str
    mesh: Mesh
    rules: LogicalRules
    abstract: TrainState
    undivided: list[str]
    make: MakeNetworks

    @property
    def shardings(self) -> TrainState:
        """The `NamedSharding` of every leaf of the state."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.abstract)

    @property
    def trained(self) -> frozenset[Path]:
        """Paths that some update trains."""
        return frozenset().union(*self.trains.values())

    @property
    def following(self) -> frozenset[Path]:
        """Paths of the networks that follow others (`Stage.targets`)."""
        names = {target.network for target in self.stage.targets}
        return frozenset(path for path in flatten_dict(self.networks.abstract) if path[0] in names)

    @property
    def frozen_paths(self) -> frozenset[Path]:
        """Paths of what never changes, where the updates leave weights out; none where they train all there are."""
        paths, changes = frozenset(flatten_dict(self.networks.abstract)), self.trained | self.following
        return paths - changes if self.networks.trainable - changes else frozenset()

    def init(self, seed: int) -> TrainState:
        """Fresh weights, moments and averages, each device making only its own shards."""
        return jax.jit(self._fresh, out_shardings=self.shardings)(stream(seed, "init"))

    def start_from(self, params: Params, step: int = 0) -> TrainState:
        """A state around given weights (a new stage, an imported checkpoint), with fresh moments and averages.

        Args:
          params: `{network: nested dict}` with the paths and shapes of `networks.abstract`.
          step: training steps done before.

        Raises:
          ValueError: a parameter is missing, unknown or of another shape.
        """
        check_params(params, self.networks.abstract)
        params = jax.device_put(params, self.shardings.params)
        around = jax.jit(functools.partial(_state_around, self), out_shardings=self.shardings)
        return dataclasses.replace(around(params), step=jax.device_put(jnp.int32(step), replicated(self.mesh)))

    def draw(self, seed: int, paths: frozenset[Path]) -> Params:
        """Fresh weights at some paths alone, such as those of an adapter."""

        def drawn(key: jax.Array) -> Params:
            with activation_sharding(self.mesh, self.rules):
                return subset(split_params(_build(self.make, key)), paths)

        return jax.jit(drawn, out_shardings=subset(self.shardings.params, paths))(stream(seed, "init"))

    def _fresh(self, key: jax.Array) -> TrainState:
        with activation_sharding(self.mesh, self.rules):
            return _state_around(self, split_params(_build(self.make, key)))


def plan_state(
    make_networks: MakeNetworks,
    stage: Stage,
    mesh: Mesh,
    rules: LogicalRules | None = None,
    ema: EMAConfig | None = None,
    guard: GuardConfig | None = None,
    masters: str = "float32",
    frozen: str | None = None,
) -> StatePlan:
    """Lays out the train state of a stage; no device is used.

    Args:
      make_networks: `nnx.Rngs -> {"backbone": module, ...}`.
      stage: the updates that will run.
      mesh: of `sharding.make_mesh`.
      rules, ema, guard: defaults where None.
      masters: precision of weights and moments, see `training.precision`.
      frozen: precision of weights that no update trains; None is `masters`.

    Raises:
      ValueError: a `trains` pattern without a match, an unknown logical axis, a network with random state.
    """
    rules, ema, guard = rules or LogicalRules(), ema or EMAConfig(), guard or GuardConfig()
    networks = define(make_networks)
    _check_targets(networks.abstract, stage)
    followers = {target.network for target in stage.targets}
    leads = frozenset(path for path in networks.trainable if path[0] not in followers)
    trains = {u.name: select(leads, u.trains, f"updates.{u.name}.trains") for u in stage.updates}
    optimizers = {u.name: make_optimizer(u.optimizer, networks.axes) for u in stage.updates}
    plan = StatePlan(
        networks, stage, trains, optimizers, ema, guard, masters, frozen or masters, mesh, rules,
        abstract=None, undivided=undivided(networks.abstract, networks.axes, mesh, rules), make=make_networks,
    )  # fmt: skip
    shapes = jax.eval_shape(functools.partial(_state_around, plan), networks.abstract)
    return dataclasses.replace(plan, abstract=_placed(plan, shapes))


def _check_targets(params: Params, stage: Stage) -> None:
    """Refuses targets that are not networks of the run, or not like what they follow."""
    for target in stage.targets:
        shapes = []
        for field, name in (("network", target.network), ("of", target.of)):
            if name not in params:
                raise ValueError(f"targets.{field}: {did_you_mean(name, params)}")
            shapes.append({path: leaf.shape for path, leaf in flatten_dict(params[name]).items()})
        if shapes[0] != shapes[1]:
            raise ValueError(f"targets.of: {target.of!r} has other parameters than {target.network!r} that follows it")


def on_mesh(plan: StatePlan, mesh: Mesh | AbstractMesh) -> StatePlan:
    """The same state laid out on another mesh."""
    lost = undivided(plan.networks.abstract, plan.networks.axes, mesh, plan.rules)
    moved = dataclasses.replace(plan, mesh=mesh, undivided=lost)
    return dataclasses.replace(moved, abstract=_placed(moved, plan.abstract))


def _placed(plan: StatePlan, shapes: TrainState) -> TrainState:
    """The shapes of a state with the shardings of the plan's mesh."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        _state_shardings(plan, shapes),
    )


def define(make_networks: MakeNetworks) -> NetworkDefinitions:
    """Traces the building of the networks and keeps what is static.

    Raises:
      ValueError: a network holds random state; keys must come as arguments, or a resumed run would not repeat.
    """
    modules = jax.eval_shape(functools.partial(_build, make_networks), jax.random.key(0))
    graphdefs, axes, trainable = {}, {}, set()
    for name, module in modules.items():
        graphdefs[name], state = nnx.split(module)
        for path, variable in nnx.to_flat_state(state):
            where = (name, *map(str, path))
            if isinstance(variable, nnx.RngState):
                raise ValueError(f"{'/'.join(where)}: networks hold no random state; take keys as arguments")
            if isinstance(variable, nnx.Param):
                trainable.add(where)
        axes[name] = _string_keys(logical_axes(state))
    return NetworkDefinitions(graphdefs, split_params(modules), axes, frozenset(trainable))


def split_params(networks: Mapping[str, nnx.Module]) -> Params:
    """`{network: nested dict of arrays}`, keyed by strings; the inverse of `NetworkDefinitions.merge`."""
    return {name: _string_keys(nnx.to_pure_dict(nnx.state(module))) for name, module in networks.items()}


def subset(params: Mapping[str, Any], paths: frozenset[Path]) -> Params:
    """The part of a nested dict that stands at `paths`."""
    return unflatten_dict({path: leaf for path, leaf in flatten_dict(params).items() if path in paths})


def overlay(params: Mapping[str, Any], part: Mapping[str, Any]) -> Params:
    """`params` with the leaves of `part` in place of its own."""
    return unflatten_dict({**flatten_dict(params), **flatten_dict(part)})


def weights(state: TrainState, ema: str | None = None) -> Params:
    """All parameters, raw or averaged; what an average does not cover never trained.

    Args:
      ema: a key of `state.ema`; None for the raw weights.

    Raises:
      ValueError: no such average.
    """
    if ema is None:
        return state.params
    if ema not in state.ema:
        raise ValueError(f"ema: {did_you_mean(ema, state.ema)}")
    return overlay(state.params, state.ema[ema])


def check_params(params: Params, abstract: Params) -> None:
    """Refuses parameters that are not exactly those of the networks.

    Raises:
      ValueError: names the first path that is missing, unknown or of another shape.
    """
    have, want = flatten_dict(params), flatten_dict(abstract)
    for path in want.keys() - have.keys():
        raise ValueError(f"params: {'/'.join(path)} is missing")
    for path, leaf in have.items():
        name = "/".join(path)
        if path not in want:
            raise ValueError(f"params: {did_you_mean(name, map('/'.join, want))}")
        if leaf.shape != want[path].shape:
            raise ValueError(f"params: {name} has shape {leaf.shape}, the network wants {want[path].shape}")


def stream(seed: int | jax.Array, name: str) -> jax.Array:
    """The key of one use of randomness (`init`, `train`, `eval`); uses never share a key."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def _build(make_networks: MakeNetworks, key: jax.Array) -> dict[str, nnx.Module]:
    with nnx.use_eager_sharding(False):  # arrays are placed by `out_shardings`, not one by one
        return dict(make_networks(_Keys(key)))


class _Keys(nnx.Rngs):
    """`nnx.Rngs` with the same keys, whose count is not an array.

    Updates of that array were 4.7 of the 6.0 seconds that tracing a UNet of 638 parameters took.
    """

    def __init__(self, key: jax.Array):
        super().__init__(key)
        self.calls = 0

    def params(self) -> jax.Array:
        """The next key."""
        self.calls += 1
        return jax.random.fold_in(self.default.key[...], self.calls - 1)

    def split(self, k: int) -> nnx.Rngs:
        """`k` ordinary ones that continue from the next key."""
        return nnx.Rngs(jax.random.split(self.params(), k))


def _state_around(plan: StatePlan, params: Params) -> TrainState:
    """The state that starts from `params`; traced."""
    averaged = master_copy(subset(params, plan.trained), plan.masters)
    following = master_copy(subset(params, plan.following), plan.masters)
    params = overlay(overlay(master_copy(params, plan.frozen), averaged), following)
    return TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state={name: plan.optimizers[name].init(subset(params, paths)) for name, paths in plan.trains.items()},
        ema={ema_name(d): jax.tree.map(lambda p: p.astype(jnp.float32), averaged) for d in plan.ema.decays},
        guard={name: init_guard(plan.guard) for name in plan.trains},
    )


def _state_shardings(plan: StatePlan, shapes: TrainState) -> TrainState:
    """Moments and averages live where their parameters live; counters everywhere."""
    whole = replicated(plan.mesh)
    params = param_shardings(plan.networks.abstract, plan.networks.axes, plan.mesh, plan.rules)

    return TrainState(
        step=whole,
        params=params,
        opt_state=_like_params(shapes.opt_state, flatten_dict(params), whole),
        ema={name: subset(params, plan.trained) for name in shapes.ema},
        guard=jax.tree.map(lambda _: whole, shapes.guard),
    )


def _like_params(opt_state: Any, params: Mapping[Path, Any], whole: Any) -> Any:
    """Shardings of an optimiser state: a leaf that stands at a parameter's path is as split as that parameter."""

    def place(path: tuple, leaf: jax.ShapeDtypeStruct) -> Any:
        keys = tuple(entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey))
        ends = (keys[start:] for start in range(len(keys)))
        return next((params[end] for end in ends if end in params and leaf.ndim == len(params[end].spec)), whole)

    return jax.tree_util.tree_map_with_path(place, opt_state)


def _string_keys(tree: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(key): _string_keys(v) if isinstance(v, Mapping) else v for key, v in tree.items()}


def _module_keys(tree: Mapping[str, Any]) -> dict[Any, Any]:
    """nnx numbers the entries of a list by int; attribute names are never digits, so this is exact."""
    return {
        int(key) if key.isdigit() else key: _module_keys(v) if isinstance(v, Mapping) else v for key, v in tree.items()
    }
