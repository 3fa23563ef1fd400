"""An adapter that asks the first frame of a clip (arXiv 2312.16693), for the UNets of diffusers.

    add(unet, "the folder that this file lies in")     # UNetMotionModel, UNet3DConditionModel ...; in place
    remove(unet)                                       # as it was

Every spatial self-attention (`attn1` of a `transformer_blocks`) gets a query and an output projection of its own, whose
keys and values are the frozen ones of the first frame:

    A(q_i, k_i, v_i) W_O + A(q'_i, k_1, v_1) W_O'

The first frame of what the UNet is given must be the clean picture, at every step and at every noise level.
"""

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class FirstFrame(nn.Module):
    """q' and W_O' beside an `Attention` of diffusers."""

    def __init__(self, attn: nn.Module):
        super().__init__()
        inner, dim = attn.to_q.out_features, attn.to_q.in_features
        self.to_q = nn.Linear(dim, inner, bias=attn.to_q.bias is not None)
        self.to_out = nn.Linear(inner, dim)

    def forward(self, attn: nn.Module, x: Tensor, frames: int) -> Tensor:
        """`x [B T, N, D]`, clip by clip."""
        first = x.unflatten(0, (-1, frames))[:, 0]
        q, k, v = self.to_q(x), attn.to_k(first), attn.to_v(first)
        q, k, v = (y.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for y in (q, k, v))
        k, v = (y.repeat_interleave(frames, dim=0) for y in (k, v))
        return self.to_out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Processor:
    """The processor that an attention had, and the branch beside it."""

    def __init__(self, inner, clip: dict):
        self.inner, self.clip = inner, clip

    def __call__(self, attn: nn.Module, hidden_states: Tensor, *args, **kwargs) -> Tensor:
        own = self.inner(attn, hidden_states, *args, **kwargs)
        return own + attn.first_frame(attn, hidden_states, self.clip["frames"])


def add(unet: nn.Module, folder: str | Path) -> nn.Module:
    """Puts the adapter of a folder into a UNet whose clips are `[B, C, T, H, W]`, and returns the UNet.

    Raises:
      ValueError: the adapter has other layers than the UNet, or is there already.
    """
    found = {}
    for path in sorted(Path(folder).glob("adapter*.safetensors")):
        found |= load_file(path)
    layers = {name.partition(".first_frame.")[0] for name in found}
    there = {name for name, _ in unet.named_modules() if name.endswith(".attn1") and ".transformer_blocks." in name}
    if lacking := sorted(layers - there):
        raise ValueError(f"unet: {lacking[0]} is not there; the adapter belongs to another network")
    clip = {"frames": 1}
    for name in sorted(layers):
        attn = unet.get_submodule(name)
        if hasattr(attn, "first_frame"):
            raise ValueError(f"unet: {name} has an adapter already; remove it first")
        attn.first_frame = FirstFrame(attn).to(attn.to_q.weight)
        attn.set_processor(Processor(attn.processor, clip))
    outcome = unet.load_state_dict(found, strict=False)
    missing = [name for name in outcome.missing_keys if ".first_frame." in name]
    if missing or outcome.unexpected_keys:
        raise ValueError(f"folder: lacks {missing} and has {outcome.unexpected_keys}, which the UNet does not know")

    def count(module: nn.Module, args: tuple, kwargs: dict) -> None:
        clip["frames"] = (args[0] if args else kwargs["sample"]).shape[2]

    unet.first_frame_hook = unet.register_forward_pre_hook(count, with_kwargs=True)
    return unet


def remove(unet: nn.Module) -> nn.Module:
    """Takes the adapter out again, in place."""
    for module in list(unet.modules()):
        if isinstance(getattr(module, "first_frame", None), FirstFrame):
            module.set_processor(module.processor.inner)
            del module.first_frame
    unet.first_frame_hook.remove()
    del unet.first_frame_hook
    return unet
