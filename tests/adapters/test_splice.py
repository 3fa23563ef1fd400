import jax.numpy as jnp
import pytest
from flax import nnx

from vdm_jax.adapters.splice import at, find, swap
from vdm_jax.nn.linear import Linear


class Net(nnx.Module):
    """A layer by name and two in a list."""

    def __init__(self, rngs):
        self.head = Linear(4, 4, axes=("embed", "embed_out"), rngs=rngs)
        self.blocks = nnx.List([Linear(4, 4, axes=("embed", "embed_out"), rngs=rngs) for _ in range(2)])

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Doubled(Linear):
    """A layer that gives twice as much."""

    def __init__(self, base):
        self.out_dims, self.kernel, self.bias = base.out_dims, base.kernel, base.bias

    def __call__(self, x):
        return 2 * super().__call__(x)


def test_layers_are_found_swapped_in_place_and_keep_their_parameters():
    net = Net(nnx.Rngs(0))
    before, y = nnx.to_pure_dict(nnx.state(net)), net(jnp.ones((1, 4)))
    paths = find(net, Linear)
    assert paths == [("blocks", "0"), ("blocks", "1"), ("head",)]
    new = swap(net, ("blocks", "1"), Doubled)
    assert at(net, ("blocks", "1")) is new
    assert find(net, Doubled) == [("blocks", "1")]
    after = nnx.to_pure_dict(nnx.state(net))
    assert before.keys() == after.keys()
    assert (before["blocks"][1]["kernel"] == after["blocks"][1]["kernel"]).all()
    swap(net, ("head",), Doubled)
    assert not (net(jnp.ones((1, 4))) == y).all()


def test_a_network_cannot_be_swapped_for_another():
    with pytest.raises(ValueError, match="path"):
        swap(Net(nnx.Rngs(0)), (), Doubled)
