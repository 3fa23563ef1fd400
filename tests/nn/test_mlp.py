import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from vdm_jax.nn.mlp import MLP, check_activation

THEIRS = {
    "gelu": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "gelu_exact": torch.nn.functional.gelu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": torch.relu,
    "relu2": lambda x: torch.relu(x) ** 2,
    "silu": torch.nn.functional.silu,
}


@pytest.mark.parametrize("activation", [*THEIRS, "swiglu", "geglu", "geglu_tanh"])
def test_it_is_what_its_name_says(activation):
    mlp = MLP(6, 10, activation=activation, rngs=nnx.Rngs(0))
    x = np.asarray(2 * jax.random.normal(jax.random.key(0), (3, 4, 6)))
    up, down = np.asarray(mlp.up.kernel[...]), np.asarray(mlp.down.kernel[...])
    hidden = torch.from_numpy(np.einsum("abd,dgh->gabh", x, up))
    if activation == "swiglu":
        hidden = torch.nn.functional.silu(hidden[0]) * hidden[1]
    elif activation == "geglu":
        hidden = hidden[0] * torch.nn.functional.gelu(hidden[1])
    elif activation == "geglu_tanh":
        hidden = torch.nn.functional.gelu(hidden[0], approximate="tanh") * hidden[1]
    else:
        assert len(hidden) == 1
        hidden = THEIRS[activation](hidden[0])
    np.testing.assert_allclose(mlp(jnp.asarray(x)), hidden.numpy() @ down, rtol=1e-5, atol=1e-5)


def test_an_unknown_activation_is_refused_by_name():
    with pytest.raises(ValueError, match="mlp: unknown 'swigl'; did you mean 'swiglu'"):
        MLP(6, 10, activation="swigl", rngs=nnx.Rngs(0))
    check_activation("swiglu")
