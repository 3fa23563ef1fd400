"""Every adapter by name, with a tiny network that it can be put into and a batch for it; new adapters join here."""

import functools

import jax
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from vdm_jax.adapters.frames import FirstFrameConfig
from vdm_jax.adapters.image_tokens import ImageTokensConfig
from vdm_jax.adapters.lora import LoRAConfig, add_lora
from vdm_jax.models.dit import DiT, DiTConfig
from vdm_jax.models.unet import UNet, UNetConfig
from vdm_jax.training.state import define, overlay, split_params, subset

QUICK = {"xla_backend_optimization_level": 0}  # compiling takes all the time
UNET = UNetConfig(channels=3, widths=(8,), layers=(1,), heads=(2,), depth=(1,), groups=4, text_dim=4)
DIT = DiTConfig(patch=(1, 4, 4), dim=16, depth=2, heads=2, attention="factorised", mlp_dim=16)


def lora(network, rngs):
    add_lora(network, LoRAConfig(("attention",), rank=2), rngs)
    return network


IMAGE = ImageTokensConfig(tokens=2, image_dim=6, dim=8, heads=2, depth=1)
# Name -> (the config of its base, how it is put in, its tag, what a run does to weights that came later).
EVERY = {
    "lora": (DIT, lora, "lora", dict),
    "first_frame": (UNET, FirstFrameConfig().put_into, "first_frame", FirstFrameConfig().begin),
    "first_frame_dit": (DIT, FirstFrameConfig().put_into, "first_frame", FirstFrameConfig().begin),
    "image_tokens": (UNET, IMAGE.put_into, "image_tokens", IMAGE.begin),
}


def maker(config, adapt=lambda network, rngs: network):
    """What builds a network for a run."""

    def make(rngs):
        network = UNet(config, rngs) if isinstance(config, UNetConfig) else DiT(config, rngs)
        return {"backbone": adapt(network, rngs)}

    return make


def awake(like, seed=0):
    """Parameters of which none says nothing, like abstract ones."""
    drawn = np.random.default_rng(seed)

    def one(path, leaf):
        near = 1.0 if path[-1] == "scale" else 0.0
        return (near + drawn.normal(0, 0.1, leaf.shape)).astype(np.float32)

    return unflatten_dict({path: one(path, leaf) for path, leaf in sorted(flatten_dict(like).items())})


@functools.cache
def definitions(config, adapt=None):
    """Those of a network, adapted or not."""
    return define(maker(config) if adapt is None else maker(config, adapt))


def started(name):
    """The parameters of an adapted network at the start, beside a base that is awake, and those of the base."""
    config, adapt, tag, begin = EVERY[name]
    own = frozenset(path for path in definitions(config, adapt).trainable if tag in path)

    def drawn(key):
        return subset(split_params(maker(config, adapt)(nnx.Rngs(key))), own)

    fresh = jax.device_get(jax.jit(drawn, compiler_options=QUICK)(jax.random.key(1)))
    base = awake(definitions(config).abstract)
    return begin(overlay(base, fresh)), base


def inputs(network, batch=2, seed=0):
    """`x`, `t` and the condition that a network reads."""
    drawn = np.random.default_rng(seed)

    def normal(*shape):
        return drawn.normal(size=shape).astype(np.float32)

    offered = {"tokens": normal(batch, 3, 4), "image": normal(batch, 5, 6)}
    cond = {key: offered[key] for key in offered if key in network.reads}
    return normal(batch, 3, 4, 4, 3), np.full((batch, 3), 0.4, np.float32), cond
