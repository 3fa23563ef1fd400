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
    "gelu_exact": lambda x: jax.nn.gelu(x, approximate=False),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),  # the GELU of CLIP
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),  # Primer (2109.08668); half the cost of GELU on a CPU
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}

# Of two projections a, b of the tokens (2002.05202).
GATED: dict[str, Callable[[Array, Array], Array]] = {
    "swiglu": lambda a, b: jax.nn.silu(a) * b,
    "geglu": lambda a, b: a * jax.nn.gelu(b, approximate=False),
    "geglu_tanh": lambda a, b: jax.nn.gelu(a, approximate=True) * b,  # T5 v1.1, whose gate comes first
}


def check_activation(name: str) -> None:
    """Raises ValueError unless `name` is one of `ACTIVATIONS` or `GATED`."""
    if name not in GATED and name not in ACTIVATIONS:
        raise ValueError(f"mlp: {did_you_mean(name, [*ACTIVATIONS, *GATED])}")


class MLP(nnx.Module):
    """`[..., dim] -> [..., dim]` through `hidden` channels.

    `activation` is one of `ACTIVATIONS`, `f(x A) C`, or of `GATED`, `f(x A, x B) C`.
    """

    def __init__(self, dim: int, hidden: int, *, activation: str, rngs: nnx.Rngs, bias: bool = True):
        check_activation(activation)
        self.activation = activation
        gates = 2 if activation in GATED else 1
        self.up = Linear(dim, (gates, hidden), axes=("embed", None, "mlp"), bias=bias, rngs=rngs)
        self.down = Linear(hidden, dim, axes=("mlp", "embed"), bias=bias, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        hidden = self.up(x)
        if self.activation in GATED:
            hidden = GATED[self.activation](hidden[..., 0, :], hidden[..., 1, :])
        else:
            hidden = ACTIVATIONS[self.activation](hidden[..., 0, :])
        return self.down(hidden)
