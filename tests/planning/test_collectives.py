import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.planning.hlo_texts import NESTED, SCHEDULE, SLICED
from vdm_jax.planning.collectives import collectives, group_axes, replica_groups, totals, wire_bytes
from vdm_jax.planning.hlo import parse
from vdm_jax.sharding import MeshConfig, make_mesh

MESH = {"data": 2, "fsdp": 2, "context": 2}


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("{{0,1},{2,3}}", [(0, 1), (2, 3)]),
        ("{}", [(0, 1, 2, 3)]),
        ("[2,2]<=[4]", [(0, 1), (2, 3)]),
        ("[2,2]<=[2,2]T(1,0)", [(0, 2), (1, 3)]),
        ("mesh['a'=2,'b'=2] {'a'}", [(0, 2), (1, 3)]),
        ("mesh['a'=2,'b'=2] {'a','b'}", [(0, 1, 2, 3)]),
        ("mesh['a'=4] {'a':(1)2}", [(0, 2), (1, 3)]),
        ("mesh['a'=4] {'a':(2)2}", [(0, 1), (2, 3)]),
        ("mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}", [(0, 1), (2, 3)]),
        ("mesh['a'=2,'b'=2], device_ids=(0,3,1,2) {'b'}", [(0, 3), (1, 2)]),
    ],
)
def test_every_spelling_of_replica_groups(text, groups):
    assert replica_groups(text, 4) == groups


def test_a_spelling_nobody_knows_is_refused():
    with pytest.raises(ValueError, match="spelling that is not known"):
        replica_groups("everyone", 4)


@pytest.mark.parametrize(
    ("group", "axes"),
    [((0, 1), ("context",)), ((0, 4), ("data",)), ((0, 2, 4, 6), ("data", "fsdp")), ((0, 3), ("fsdp", "context"))],
)
def test_axes_are_where_members_differ(group, axes):
    assert group_axes([group], MESH) == axes


def test_nested_loops_multiply_and_rings_are_priced():
    found = {c.kind: c for c in collectives(parse(NESTED), MESH)}
    size = 16 * 4 * 4
    reduce, exchange = found["all-reduce"], found["all-to-all"]
    assert (reduce.count, reduce.out_bytes, reduce.group, reduce.axes) == (15, size, 2, ("context",))
    assert reduce.wire_bytes == 2 * size / 2
    assert (exchange.count, exchange.group, exchange.axes) == (5, 4, ("data", "fsdp"))
    assert exchange.wire_bytes == size * 3 / 4
    assert wire_bytes(found.values()) == 15 * size + 5 * size * 3 / 4


def test_each_transfer_counts_once_however_it_is_written():
    found = collectives(parse(SCHEDULE), {"fsdp": 4})
    gathered, exchanged = 256 * 128 * 2, 64 * 64 * 2
    assert sorted((c.kind, c.count, c.out_bytes, c.wire_bytes) for c in found) == [
        ("all-gather", 1, gathered, gathered * 3 / 4),  # a pair
        ("all-gather", 1, gathered, gathered * 3 / 4),  # two fusions that carry one transfer
        ("all-to-all", 1, exchanged, exchanged * 3 / 4),
        ("collective-permute", 1, exchanged, exchanged),
        ("reduce-scatter", 1, 256 * 64 * 2, 256 * 64 * 2 * 3),
    ]
    gathers = [c for c in found if c.kind == "all-gather"]
    assert [c.name for c in gathers] == ["ag-done", "carry-done"]
    assert [[i.name for i in c.behind if i.name.startswith("busy")] for c in gathers] == [["busy"], ["busy.2"]]
    assert not any(c.asynchronous for c in found if c.kind == "reduce-scatter")


def test_channels_alone_do_not_make_one_transfer_of_two():
    """`shard_map` numbers all its collectives 1."""
    apart = SCHEDULE.replace("fusion(%c0, %c1, %c2), kind=kCustom, calls=%carry.2", "fusion(%w), calls=%carry.1")
    assert [c.name for c in collectives(parse(apart), {"fsdp": 4}) if c.kind == "all-gather"] == [
        "ag-done",
        "carry-start",
        "carry-done",
    ]


def test_transfers_between_slices_are_collectives_of_data():
    (found,) = collectives(parse(SLICED), {"data": 2, "fsdp": 4}, slices=2)
    size = 64 * 128 * 2
    assert (found.kind, found.axes, found.group, found.members) == ("all-reduce", ("data",), 2, (0, 4))
    assert (found.count, found.out_bytes, found.wire_bytes) == (1, size, size)
    assert [i.name for i in found.behind] == ["busy"]


def test_a_compiled_scan_is_counted_as_it_runs():
    """Weights split over fsdp are gathered in each layer, forward and backward, and their gradients reduced."""
    layers, batch, width = 3, 32, 64
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    split = NamedSharding(mesh, PartitionSpec(None, "fsdp", None))
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))

    def loss(stack, x):
        body = lambda x, w: (jax.lax.with_sharding_constraint(jnp.tanh(x @ w), rows), None)  # noqa: E731
        return (jax.lax.scan(body, x, stack)[0] ** 2).mean()

    stack = jax.ShapeDtypeStruct((layers, width, width), jnp.float32, sharding=split)
    x = jax.ShapeDtypeStruct((batch, width), jnp.float32, sharding=rows)
    text = jax.jit(jax.grad(loss), out_shardings=split).lower(stack, x).compile().as_text()
    sums = totals(collectives(parse(text), dict(mesh.shape)))
    weight = layers * width * width * 4
    gathered = sum(wire for (kind, axes), (_, _, wire) in sums.items() if kind == "all-gather" and axes == ("fsdp",))
    assert gathered == pytest.approx(2 * weight * 3 / 4)
    reduced = {axes for (kind, axes) in sums if kind in ("all-reduce", "reduce-scatter")}
    assert any("data" in axes for axes in reduced)
    counts = [n for (kind, axes), (n, _, _) in sums.items() if kind == "all-gather" and axes == ("fsdp",)]
    np.testing.assert_array_equal(np.array(counts) % layers, 0)
