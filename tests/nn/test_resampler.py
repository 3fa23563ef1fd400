import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import unflatten_dict

from vdm_jax.nn.resampler import Resampler

SIZES = {"tokens": 3, "dim": 8, "heads": 2, "depth": 2}


def published(depth):
    """diffusers' module of IP-Adapter Plus, every parameter drawn, and its state by our paths."""
    torch = pytest.importorskip("torch", reason="compares with diffusers")
    embeddings = pytest.importorskip("diffusers.models.embeddings", reason="compares with diffusers")
    theirs = embeddings.IPAdapterPlusImageProjection(6, 4, 8, depth=depth, dim_head=4, heads=2, num_queries=3)
    drawn = np.random.default_rng(0)
    for name, leaf in theirs.named_parameters():
        near = 1.0 if leaf.ndim == 1 and name.endswith("weight") else 0.0
        leaf.data = torch.tensor(near + drawn.normal(0, 0.3, leaf.shape), dtype=torch.float32)
    return torch, theirs, {name: leaf.numpy() for name, leaf in theirs.state_dict().items()}


def converted(state, depth):
    """Those parameters in our layout."""
    names = {"proj_in": "enter", "proj_out": "leave"}
    ours = {("queries",): state["latents"][0]}
    for theirs, own in names.items():
        ours |= {(own, "kernel"): state[f"{theirs}.weight"].T, (own, "bias"): state[f"{theirs}.bias"]}
    ours |= {("norm", "scale"): state["norm_out.weight"], ("norm", "bias"): state["norm_out.bias"]}

    def blocks(name):
        return np.stack([state[f"layers.{i}.{name}"] for i in range(depth)])

    for theirs, own in {"ln0": "norm_features", "ln1": "norm", "ff.0": "norm_mlp"}.items():
        ours |= {
            ("blocks", own, "scale"): blocks(f"{theirs}.weight"),
            ("blocks", own, "bias"): blocks(f"{theirs}.bias"),
        }
    q, k, v = (blocks(f"attn.to_{name}.weight").transpose(0, 2, 1).reshape(depth, 8, 2, 4) for name in ("q", "k", "v"))
    ours |= {("blocks", "q", "kernel"): q, ("blocks", "kv", "kernel"): np.stack([k, v], axis=-2)}
    ours["blocks", "out", "kernel"] = blocks("attn.to_out.0.weight").transpose(0, 2, 1)
    ours["blocks", "mlp", "up", "kernel"] = blocks("ff.1.net.0.proj.weight").transpose(0, 2, 1)[:, :, None]
    ours["blocks", "mlp", "down", "kernel"] = blocks("ff.1.net.2.weight").transpose(0, 2, 1)
    return ours


def test_it_computes_what_the_published_module_does():
    depth = SIZES["depth"]
    torch, theirs, state = published(depth)
    graphdef, abstract = nnx.split(nnx.eval_shape(lambda: Resampler(6, 4, **SIZES, rngs=nnx.Rngs(0))))
    ours = converted(state, depth)
    shapes = {path: leaf.shape for path, leaf in nnx.to_flat_state(abstract)}
    assert shapes == {path: leaf.shape for path, leaf in ours.items()}
    features = np.random.default_rng(1).normal(size=(2, 5, 6)).astype(np.float32)
    wanted = theirs(torch.tensor(features)).detach().numpy()
    run = jax.jit(lambda params, x: nnx.merge(graphdef, params)(x))
    got = run(unflatten_dict({path: jnp.asarray(leaf) for path, leaf in ours.items()}), features)
    assert got.shape == (2, 3, 4)
    assert np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max()
