"""An adapter of a published UNet in PyTorch: what it adds there is what it adds here."""

import jax
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from vdm_jax.adapters.frames import FirstFrameConfig, FirstFrameQuery
from vdm_jax.attention import FULL
from vdm_jax.interop.exporting.adapter import torch_tensors
from vdm_jax.interop.lora.adapters import names_of
from vdm_jax.models.unet import UNet, UNetConfig
from vdm_jax.nn.attention import SelfAttention

torch = pytest.importorskip("torch", reason="the adapter is put into a network of PyTorch")
diffusers = pytest.importorskip("diffusers", reason="whose UNets are those of diffusers")

TINY = UNetConfig(widths=(8, 16), layers=(1, 1), heads=(2, 2), depth=(0, 1), groups=4, text_dim=8, temporal="motion",
                  motion_heads=(2, 2), motion_depth=(1, 1))  # fmt: skip


def test_every_tensor_has_its_place_beside_the_published_ones():
    def adapted():
        return FirstFrameConfig().put_into(UNet(TINY, nnx.Rngs(0)), nnx.Rngs(1))

    flat = flatten_dict(nnx.to_pure_dict(nnx.state(jax.eval_shape(adapted), nnx.Param)))
    own = {tuple(map(str, path)): np.zeros(leaf.shape, "f4") for path, leaf in flat.items() if "first_frame" in path}
    found = torch_tensors(own, names_of(TINY))
    stems = ["down_blocks.1.attentions.0", "mid_block.attentions.0", *(f"up_blocks.0.attentions.{i}" for i in (0, 1))]
    kinds = {"to_q.weight": (16, 16), "to_out.weight": (16, 16), "to_out.bias": (16,)}
    wanted = {
        f"{stem}.transformer_blocks.0.attn1.first_frame.{kind}": shape
        for stem in stems
        for kind, shape in kinds.items()
    }
    assert {name: value.shape for name, value in found.items()} == wanted


def test_a_layer_computes_the_same(tmp_path):
    from diffusers.models.attention_processor import Attention

    from vdm_jax.interop.exporting.torch_modules import first_frame

    drawn = np.random.default_rng(0)
    layer = FirstFrameQuery(SelfAttention(8, 2, qkv_bias=False, rngs=nnx.Rngs(0)), nnx.Rngs(1))
    state = nnx.state(layer, nnx.Param)
    nnx.update(layer, jax.tree.map(lambda leaf: drawn.normal(0, 0.5, leaf.shape).astype("f4"), state))
    kernels = {"/".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(nnx.state(layer))}

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.transformer_blocks = torch.nn.ModuleList([torch.nn.Module()])
            self.transformer_blocks[0].attn1 = Attention(8, heads=2, dim_head=4)

        def forward(self, sample):
            return self.transformer_blocks[0].attn1(sample[:, 0].flatten(0, 1))

    unet, stem = torch.nn.ModuleDict({"down": Block()}), "down.transformer_blocks.0.attn1."
    unet.forward = lambda sample: unet["down"](sample)
    qkv = kernels["qkv/kernel"].reshape(8, 2, 3, 4)
    weights = {f"to_{name}.weight": qkv[:, :, i].reshape(8, 8).T for i, name in enumerate("qkv")}
    weights |= {"to_out.0.weight": kernels["out/kernel"].T, "to_out.0.bias": kernels["out/bias"]}
    unet.load_state_dict({stem + name: torch.tensor(np.ascontiguousarray(value)) for name, value in weights.items()})
    own = {
        "first_frame.to_q.weight": kernels["first_frame/q/kernel"].reshape(8, 8).T,
        "first_frame.to_out.weight": kernels["first_frame/out/kernel"].T,
        "first_frame.to_out.bias": kernels["first_frame/out/bias"],
    }
    save_file(
        {stem + name: np.ascontiguousarray(value) for name, value in own.items()}, tmp_path / "adapter.safetensors"
    )
    x = drawn.normal(size=(2, 3, 5, 8)).astype("f4")
    sample = torch.tensor(x)[:, None]
    with torch.no_grad():
        before = unet(sample).numpy()
        first_frame.add(unet, tmp_path)
        with pytest.raises(ValueError, match="has an adapter already"):
            first_frame.add(unet, tmp_path)
        after = unet(sample).numpy()
        np.testing.assert_array_equal(first_frame.remove(unet)(sample).numpy(), before)
    wanted = np.asarray(jax.jit(lambda layer, x: layer(x, FULL))(layer, x)).reshape(6, 5, 8)
    assert abs(after - before).max() > 0.1
    assert abs(after - wanted).max() <= 1e-4 * abs(wanted).max()
    with pytest.raises(ValueError, match="down.transformer_blocks.0.attn1 is not there"):
        first_frame.add(torch.nn.ModuleDict(), tmp_path)
