"""The smallest autoencoder of each family, at random weights."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vdm_jax.models.autoencoders import (
    AutoencoderKL,
    AutoencoderKLCogVideoX,
    AutoencoderKLTemporalDecoder,
    AutoencoderKLWan,
    CogVideoXConfig,
    KLConfig,
    TemporalDecoderConfig,
    WanConfig,
)

_LATENTS = {"latent_channels": 2}
_STATISTICS = {"latents_mean": (0.5, -1.0), "latents_std": (2.0, 0.5)}
_WAN = {"dim": 4, "multipliers": (1, 2, 2), "halve_time": (False, True), "depth": 1, **_LATENTS, **_STATISTICS}

CONFIGS = {
    "kl": (AutoencoderKL, KLConfig(widths=(4, 8), groups=2, depth=1, **_LATENTS)),
    "temporal": (AutoencoderKLTemporalDecoder, TemporalDecoderConfig(widths=(32,), depth=1, **_LATENTS)),
    "wan": (AutoencoderKLWan, WanConfig(decoder_dim=4, **_WAN)),
    "wan 2.2": (AutoencoderKLWan, WanConfig(decoder_dim=6, patch=2, shortcuts=True, **_WAN)),
    "cogvideox": (AutoencoderKLCogVideoX, CogVideoXConfig(widths=(4, 4, 8), groups=2, depth=1, **_LATENTS)),
}


def make(name: str) -> nnx.Module:
    """The autoencoder, every parameter drawn: norm scales around 1, kernels by their fan-in, biases too."""
    cls, config = CONFIGS[name]
    graph, state = nnx.split(nnx.eval_shape(lambda: cls(config, nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    drawn = {}
    for path, leaf in nnx.to_flat_state(state):
        noise = rng.standard_normal(leaf.shape).astype(np.float32)
        fan_in = np.prod(leaf.shape[:-1]) if path[-1] == "kernel" else 100
        drawn[path] = leaf.replace(jnp.asarray((path[-1] == "scale") + noise / np.sqrt(fan_in)))
    return nnx.merge(graph, nnx.from_flat_state(drawn))


def draw(*shape: int) -> jax.Array:
    """Numbers within [-1, 1], smooth in no direction."""
    return jnp.tanh(jax.random.normal(jax.random.key(sum(shape)), shape))
