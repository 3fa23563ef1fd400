import pytest

from vdm_jax.attention.partition import LOCAL, Partition, check_degree, check_partition, choose_partition, partition_for


def shape(heads=8, tokens=16, groups=1, frames=1):
    return (2, groups, heads, frames, tokens, 4)


@pytest.mark.parametrize(
    ("context", "q", "k", "name"),
    [
        (1, shape(), shape(), "local"),
        (4, shape(), shape(), "ulysses"),
        (4, shape(heads=6), shape(heads=6), "hybrid"),
        (4, shape(heads=3), shape(heads=3), "ring"),
        (4, shape(groups=7), shape(groups=7), "groups"),
        (4, shape(groups=5), shape(groups=5), "ulysses"),
        (4, shape(groups=5), shape(tokens=8), "rows"),
        (4, shape(), shape(tokens=8), "rows"),
        (4, shape(tokens=8), shape(frames=3, tokens=8), "ulysses"),
    ],
)
def test_auto_says_which_and_why(context, q, k, name):
    chosen, why = choose_partition(context, q, k)
    assert chosen == name
    assert why
    assert "\n" not in why
    assert partition_for("auto", context, q, k).name == name


@pytest.mark.parametrize(
    ("name", "heads", "context", "ring", "ulysses"),
    [
        ("ring", 8, 4, 4, 1),
        ("ulysses", 8, 4, 1, 4),
        ("hybrid", 8, 8, 2, 4),
        ("hybrid", 6, 4, 2, 2),
        ("hybrid", 12, 6, 2, 3),
    ],
)
def test_the_axis_is_shared_out_between_ring_and_ulysses(name, heads, context, ring, ulysses):
    got = partition_for(name, context, shape(heads), shape(heads))
    assert (got.ring, got.ulysses) == (ring, ulysses)
    assert got.exchanges


def test_one_device_has_everything():
    for name in ("auto", "ulysses", "ring", "hybrid", "rows"):
        assert partition_for(name, 1, shape(3), shape(3)) == LOCAL
    assert partition_for("groups", 4, shape(groups=3), shape(groups=3)) == Partition("groups", cut=1)


@pytest.mark.parametrize(
    ("name", "heads", "context", "message"),
    [
        ("ulysses", 6, 4, "'ulysses' cannot cut 6 heads .* over context 4; the nearest context that divides them is 3"),
        ("hybrid", 5, 4, "'hybrid' needs a factor of context 4 .* use 'ring' or 'auto'"),
        ("hybrid", 6, 2, "'hybrid' needs a factor of context 2 .* use 'ulysses' or 'auto'"),
    ],
)
def test_heads_that_do_not_divide_are_refused_with_what_would(name, heads, context, message):
    with pytest.raises(ValueError, match=message):
        check_degree(name, heads, context)
    with pytest.raises(ValueError, match=message):
        partition_for(name, context, shape(heads), shape(heads))
    check_degree("ring", heads, context)
    check_degree("auto", heads, context)


def test_wrong_names_say_the_nearest():
    check_partition("auto")
    with pytest.raises(ValueError, match="partition: unknown 'ulyses'; did you mean 'ulysses'"):
        check_partition("ulyses")
