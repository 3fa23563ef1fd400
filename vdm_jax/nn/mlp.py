"""The token-wise MLP of transformer blocks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from vdm_jax.errors import did_you_mean
from vdm_jax.nn.linear import Linear

Array = jax.Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=True),
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),  # Primer (2109.08668); half the cost of GELU on a CPU
    "silu": jax.nn.silu,
}


def check_activation(name: str) -> None:
    """Raises ValueError unless `name` is `swiglu` or one of `ACTIVATIONS`."""
    if name != "swiglu" and name not in ACTIVATIONS:
        raise ValueError(f"mlp: {did_you_mean(name, [*ACTIVATIONS, 'swiglu'])}")


class MLP(nnx.Module):
    """`[..., dim] -> [..., dim]` through `hidden` channels.

    `activation` is one of `ACTIVATIONS`, or `swiglu` (2002.05202): `(silu(x A) * x B) C`.
    """

    def __init__(self, dim: int, hidden: int, *, activation: str, rngs: nnx.Rngs):
        check_activation(activation)
        self.activation = activation
        gates = 2 if activation == "swiglu" else 1
        self.up = Linear(dim, (gates, hidden), axes=("embed", None, "mlp"), rngs=rngs)
        self.down = Linear(hidden, dim, axes=("mlp", "embed"), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        hidden = self.up(x)
        if self.activation == "swiglu":
            hidden = jax.nn.silu(hidden[..., 0, :]) * hidden[..., 1, :]
        else:
            hidden = ACTIVATIONS[self.activation](hidden[..., 0, :])
        return self.down(hidden)
