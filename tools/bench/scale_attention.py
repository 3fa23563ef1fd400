"""Section `attention`: what partitioned attention sends, compiled for 8 to 512 TPU chips, against the least it can.

Weak scaling: every device holds the same number of tokens.  A shard is one operand on one device; over u devices of a
ulysses group and r devices of a ring, forward and backward send (see `vdm_jax.attention.partition`)

    ulysses  8 (u - 1) / u shards        ring  6 (r - 1) shards        hybrid  the sum of the two

and the dynamic re-partition of a factorised block, spatial attention by frames and temporal attention by tokens, four
exchanges of the hidden states: (R - 1) / R of a shard each, there and back, forward and backward.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from bench.options import Options, say
from vdm_jax.attention import attend
from vdm_jax.attention.partition import partition_for
from vdm_jax.media.figures import Figure
from vdm_jax.models.dit import DiTConfig
from vdm_jax.models.dit.blocks import Context, Unit
from vdm_jax.models.dit.layout import TokenLayout
from vdm_jax.planning.collectives import collectives, wire_bytes
from vdm_jax.planning.hlo import parse
from vdm_jax.planning.targets import parse_target, target_mesh
from vdm_jax.sharding import LogicalRules, MeshConfig, activation_sharding

MACHINES = {8: "v5p:2x2x2", 64: "v5p:4x4x4", 512: "v5p:8x8x8"}
TOKENS, HEADS, HEAD_DIM = 512, 64, 128  # tokens of one device
FRAMES, PATCHES, WIDTH = 2, 1024, 256  # frames of a device, and tokens of a frame, of the factorised block
AT_MOST = 1.05
PARTITIONS = ("ulysses", "ring", "hybrid")


def measure(options: Options) -> list[Figure]:
    """MiB sent by a device, over the analytic minimum."""
    figures = []
    for devices, machine in MACHINES.items():
        if options.quick and devices > 8:
            continue
        mesh = target_mesh(parse_target(machine), MeshConfig(data=1, context=devices))
        for name in PARTITIONS:
            if (name == "ulysses" and HEADS % devices) or (name == "hybrid" and devices == 8):
                continue
            figures.append(_figure(name, devices, sent(_exchange(name, devices), mesh), least(name, devices)))
        figures.append(_figure("dynamic", devices, sent(_dynamic(devices), mesh), least("dynamic", devices)))
    return figures


def least(name: str, devices: int) -> float:
    """Bytes a device must send in a forward and backward pass in bfloat16."""
    if name == "dynamic":
        return 4 * (devices - 1) / devices * 2 * FRAMES * PATCHES * WIDTH
    shape = (1, 1, HEADS, 1, TOKENS * devices, HEAD_DIM)
    where = partition_for(name, devices, shape, shape)
    u, r = where.ulysses, where.ring
    return (8 * (u - 1) / u + 6 * (r - 1)) * 2 * TOKENS * HEADS * HEAD_DIM


def sent(program: tuple[Callable, tuple], mesh: jax.sharding.Mesh) -> float:
    """Bytes one device sends to others in the compiled program."""
    function, arguments = program

    def run(*arguments):
        with activation_sharding(mesh, LogicalRules()):
            return function(*arguments)

    placed = [jax.ShapeDtypeStruct(s, d, sharding=jax.NamedSharding(mesh, spec)) for s, d, spec in arguments]
    text = jax.jit(run).lower(*placed).compile().as_text()
    return wire_bytes(collectives(parse(text), dict(mesh.shape)))


def _exchange(name: str, devices: int) -> tuple[Callable, tuple]:
    """Self-attention over the tokens of all devices, forward and backward."""
    operand = ((1, TOKENS * devices, HEADS, HEAD_DIM), jnp.bfloat16, jax.P(None, "context"))

    def run(q, k, v, d_out):
        out, pull = jax.vjp(lambda q, k, v: attend(q, k, v, partition=name), q, k, v)
        return out, pull(d_out)

    return run, (operand,) * 4


def _dynamic(devices: int) -> tuple[Callable, tuple]:
    """A factorised unit of the DiT on tokens `[1, T, S, D]` whose T and S divide by the devices."""
    frames, patches = FRAMES * devices, PATCHES
    config = DiTConfig(dim=WIDTH, heads=WIDTH // HEAD_DIM, attention="factorised", qk_norm="none", rope=False)
    graph, params = nnx.split(nnx.eval_shape(lambda: Unit(config, rngs=nnx.Rngs(0))))
    leaves, tree = jax.tree.flatten(nnx.to_pure_dict(params))
    tokens = ((1, frames, patches, WIDTH), jnp.bfloat16, jax.P(None, "context"))
    weights = [(leaf.shape, jnp.bfloat16, jax.P()) for leaf in leaves]

    def run(x, d_out, *weights):
        unit = nnx.merge(graph, jax.tree.unflatten(tree, weights))
        layout = TokenLayout.of("factorised", "dynamic", frames, patches, config.heads)
        rows = jnp.zeros((1, frames, 6, WIDTH), jnp.bfloat16)
        context = Context(rows[:, :, 0], rows, None, None, {"space": None, "time": None}, layout)
        out, pull = jax.vjp(lambda x: layout.hold(unit(layout.enter(x), context)), x)
        return out, pull(d_out)

    return run, (tokens, tokens, *weights)


def _figure(name: str, devices: int, bytes_sent: float, minimum: float) -> Figure:
    ratio = bytes_sent / minimum
    mib = 2**20
    say(
        f"{name:8} {devices:4} devices: {bytes_sent / mib:9.2f} MiB sent, least {minimum / mib:9.2f}, ratio {ratio:.3f}"
    )
    return Figure(
        f"attention/{name}/{devices}_devices", bytes_sent / mib, "MiB", minimum / mib, ratio, ok=ratio <= AT_MOST
    )
