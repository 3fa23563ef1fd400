"""Small DiTs with weights that do something: at the start their output is zero whatever the input."""

import jax
import jax.numpy as jnp
from flax import nnx

from vdm_jax.models.dit import DiT, DiTConfig

B, T, H, W, L = 2, 3, 4, 4, 5
TEXT_DIM = 6


def make(seed=0, **fields):
    """A DiT of one unit on `[B, T, H, W, 3]`, as it is built."""
    defaults = {"patch": (1, 2, 2), "dim": 16, "depth": 1, "heads": 2}
    return DiT(DiTConfig(**{**defaults, **fields}), nnx.Rngs(seed))


def awake(model, seed=1, std=0.05):
    """The same model with every weight drawn again, those that start at zero too."""
    graphdef, state = nnx.split(model)
    leaves, treedef = jax.tree.flatten(state)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [std * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves)]
    return nnx.merge(graphdef, jax.tree.unflatten(treedef, drawn))


def clip(seed=0, frames=T):
    """`[B, T, H, W, 3]`."""
    return jax.random.normal(jax.random.key(seed), (B, frames, H, W, 3))


def times(frames=T):
    """Another time for every frame, `[B, T]`."""
    return jnp.linspace(10.0, 900.0, B * frames).reshape(B, frames)


def text(seed=5, per_frame=0):
    """Tokens `[B, L, D]` (or `[B, T, L, D]`) with their mask `[B, L]`; two of the second prompt are padding."""
    frames = (per_frame,) if per_frame else ()
    tokens = jax.random.normal(jax.random.key(seed), (B, *frames, L, TEXT_DIM))
    return {"tokens": tokens, "tokens_mask": jnp.arange(L)[None] < jnp.array([[L], [L - 2]])}


@nnx.jit
def _call(model, x, t, cond):
    return model(x, t, cond)


def call(model, x=None, t=None, cond=None):
    """The compiled forward pass."""
    return _call(model, clip() if x is None else x, times() if t is None else t, cond or {})
