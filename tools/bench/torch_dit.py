"""The peer: the same DiT as `vdm_jax.models.dit` (full attention) in idiomatic PyTorch, and our weights put into it.

Written the way a fast PyTorch model is written: fused projections, `scaled_dot_product_attention`, layer norms from
the library, modulation by `addcmul`, a Python loop over blocks.  It is compared with ours for output, loss and
gradients before anything is timed, so that the two cannot drift apart.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vdm_jax.models.dit import DiTConfig
from vdm_jax.models.text import TextConfig
from vdm_jax.nn.rotary import rotary_table

_ACTIVATIONS = {"gelu": lambda x: F.gelu(x, approximate="tanh"), "relu2": lambda x: F.relu(x).square()}


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x [B, H, N, c]`, tables `[N, c / 2]`; pairs are `(i, i + c / 2)`."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class SelfAttention(nn.Module):
    """`[B, N, D] -> [B, N, D]` with fused QKV."""

    def __init__(self, dim: int, heads: int, qk_norm: str = "none"):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.q_norm, self.k_norm = _qk_norms(qk_norm, heads, dim // heads)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None = None, mask: Tensor | None = None) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).unbind(2)
        q, k, v = self.q_norm(q).transpose(1, 2), self.k_norm(k).transpose(1, 2), v.transpose(1, 2)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        return self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(b, n, d))


class CrossAttention(nn.Module):
    """Queries from `x [B, N, D]`, keys and values from `text [B, L, D]`."""

    def __init__(self, dim: int, heads: int, qk_norm: str):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.q_norm, self.k_norm = _qk_norms(qk_norm, heads, dim // heads)

    def forward(self, x: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        b, n, d = x.shape
        q = self.q_norm(self.q(x).view(b, n, self.heads, -1)).transpose(1, 2)
        k, v = self.kv(text).view(b, text.shape[1], 2, self.heads, -1).unbind(2)
        k, v = self.k_norm(k).transpose(1, 2), v.transpose(1, 2)
        return self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(b, n, d))


class MLP(nn.Module):
    """`[..., D] -> [..., D]`."""

    def __init__(self, dim: int, hidden: int, activation: str):
        super().__init__()
        self.activation = _ACTIVATIONS[activation]
        self.up = nn.Linear(dim, hidden)
        self.down = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))


class Block(nn.Module):
    """Self-attention, cross-attention and MLP with adaLN."""

    def __init__(self, cfg: DiTConfig):
        super().__init__()
        self.attention = SelfAttention(cfg.dim, cfg.heads, cfg.qk_norm)
        self.cross_norm = nn.LayerNorm(cfg.dim, eps=1e-6)
        self.cross = CrossAttention(cfg.dim, cfg.heads, cfg.qk_norm)
        self.mlp = MLP(cfg.dim, cfg.hidden, cfg.mlp)
        single = cfg.adaln == "single"
        self.modulation = None if single else nn.Linear(cfg.dim, 6 * cfg.dim)
        self.table = nn.Parameter(torch.zeros(6, cfg.dim)) if single else None

    def forward(self, x: Tensor, time: Tensor, shared: Tensor | None, text: Tensor, mask, rotary) -> Tensor:
        b, t, s, d = x.shape
        rows = shared + self.table if shared is not None else self.modulation(time).view(b, t, 6, d)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = rows.split(1, dim=2)
        h = torch.addcmul(shift_a, F.layer_norm(x, (d,), eps=1e-6), 1 + scale_a)
        x = torch.addcmul(x, gate_a, self.attention(h.view(b, t * s, d), rotary).view(b, t, s, d))
        x = x + self.cross(self.cross_norm(x).view(b, t * s, d), text, mask).view(b, t, s, d)
        h = torch.addcmul(shift_m, F.layer_norm(x, (d,), eps=1e-6), 1 + scale_m)
        return torch.addcmul(x, gate_m, self.mlp(h))


class TorchDiT(nn.Module):
    """The backbone: `x [B, T, H, W, C]`, `t [B, T]`, text features `[B, L, D]` -> `[B, T, H, W, C]`.

    Args:
      cfg: full attention with rope and text; no sinusoidal table, no vector, concat or known conditions.
      grid: (frames, height, width) in tokens.
    """

    def __init__(self, cfg: DiTConfig, grid: tuple[int, int, int]):
        super().__init__()
        assert (cfg.attention, cfg.causal, cfg.rope, cfg.reads) == ("full", False, True, {"tokens"}), cfg
        assert cfg.positions in ("none", "learned"), cfg
        assert cfg.text_projection == "linear", cfg
        d, pixels = cfg.dim, cfg.patch[0] * cfg.patch[1] * cfg.patch[2] * cfg.channels
        self.cfg, self.grid = cfg, grid
        self.patch_in = nn.Linear(pixels, d)
        self.time_hidden, self.time_out = nn.Linear(256, d), nn.Linear(d, d)
        self.text_in = nn.Linear(cfg.text_dim, d)
        self.text_pool = nn.Linear(d, d) if cfg.pooled_text else None
        self.modulation = nn.Linear(d, 6 * d) if cfg.adaln == "single" else None
        self.frame_table = self.patch_table = None
        if cfg.positions == "learned":
            self.frame_table = nn.Parameter(torch.zeros(cfg.grid[0], 1, d))
            self.patch_table = nn.Parameter(torch.zeros(*cfg.grid[1:], d))
        self.units = nn.ModuleList(Block(cfg) for _ in range(cfg.depth))
        single = cfg.adaln == "single"
        self.final_modulation = nn.Parameter(torch.zeros(2, d)) if single else nn.Linear(d, 2 * d)
        self.patch_out = nn.Linear(d, pixels)
        table = torch.from_numpy(rotary_table(grid, cfg.head_dim))
        self.register_buffer("cos", table[:, 0].contiguous(), persistent=False)
        self.register_buffer("sin", table[:, 1].contiguous(), persistent=False)
        self.register_buffer("frequencies", 10_000.0 ** (-torch.arange(128) / 128), persistent=False)

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        b, d = x.shape[0], self.cfg.dim
        (gt, gh, gw), (pt, ph, pw) = self.grid, self.cfg.patch
        text = self.text_in(tokens)
        e = self._time(t, text, mask)
        time = F.silu(e)
        shared = self.modulation(time).view(b, gt, 6, d) if self.modulation is not None else None
        attended = None if mask is None else mask[:, None, None, :]
        patches = x.view(b, gt, pt, gh, ph, gw, pw, -1).permute(0, 1, 3, 5, 2, 4, 6, 7)
        h = self.patch_in(patches.reshape(b, gt, gh * gw, -1))
        if self.frame_table is not None:
            h = h + (self.frame_table[:gt] + self.patch_table[:gh, :gw].reshape(1, gh * gw, d))
        for unit in self.units:
            h = unit(h, time, shared, text, attended, (self.cos, self.sin))
        if shared is not None:
            rows = self.final_modulation + e[:, :, None]
        else:
            rows = self.final_modulation(time).view(b, gt, 2, d)
        shift, scale = rows.split(1, dim=2)
        patches = self.patch_out(torch.addcmul(shift, F.layer_norm(h, (d,), eps=1e-6), 1 + scale))
        pixels = patches.view(b, gt, gh, gw, pt, ph, pw, -1).permute(0, 1, 4, 2, 5, 3, 6, 7)
        return pixels.reshape(x.shape)

    def _time(self, t: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        angles = t[..., None] * self.frequencies
        e = self.time_out(F.silu(self.time_hidden(torch.cat((angles.cos(), angles.sin()), dim=-1))))
        e = e.view(t.shape[0], self.grid[0], -1, e.shape[-1]).mean(dim=2)
        if self.text_pool is not None:
            kept = torch.ones(text.shape[:2]) if mask is None else mask.float()
            mean = (text * kept[..., None]).sum(1) / kept.sum(1, keepdim=True).clamp(min=1)
            e = e + self.text_pool(F.silu(mean))[:, None]
        return e


class TextBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, cfg: TextConfig):
        super().__init__()
        self.attention_norm = nn.LayerNorm(cfg.dim, eps=1e-6)
        self.attention = SelfAttention(cfg.dim, cfg.heads)
        self.mlp_norm = nn.LayerNorm(cfg.dim, eps=1e-6)
        self.mlp = MLP(cfg.dim, 4 * cfg.dim, "gelu")

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), mask=mask)
        return x + self.mlp(self.mlp_norm(x))


class TorchText(nn.Module):
    """The text encoder: `ids [B, L]`, `mask [B, L]` -> features `[B, L, D]`."""

    def __init__(self, cfg: TextConfig, vocab_size: int):
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, cfg.dim)
        self.positions = nn.Parameter(torch.zeros(cfg.length, cfg.dim))
        self.blocks = nn.ModuleList(TextBlock(cfg) for _ in range(cfg.depth))
        self.norm = nn.LayerNorm(cfg.dim, eps=1e-6)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions
        for block in self.blocks:
            x = block(x, mask[:, None, None, :])
        return self.norm(x)


def _qk_norms(kind: str, heads: int, head_dim: int) -> tuple[nn.Module, nn.Module]:
    if kind == "none":
        return nn.Identity(), nn.Identity()
    shape = (head_dim,) if kind == "head" else (heads, head_dim)
    return nn.RMSNorm(shape, eps=1e-6), nn.RMSNorm(shape, eps=1e-6)


def backbone_state(params: Mapping[str, Any]) -> dict[str, Tensor]:
    """The `state_dict` of a `TorchDiT` from our nested dict of parameters (or of gradients: both are linear maps)."""
    params = dict(params)
    params |= {f"time_{name}": value for name, value in params.pop("time").items()}
    params.pop("scalars", None)
    blocks = params.pop("units")["block"]
    if not isinstance(blocks["modulation"], Mapping):
        blocks = {**blocks, "table": blocks["modulation"]}
        del blocks["modulation"]
    return _tensors(_flatten(params) | _unstack(blocks, "units"))


def text_state(params: Mapping[str, Any]) -> dict[str, Tensor]:
    """The `state_dict` of a `TorchText`."""
    params = dict(params)
    blocks, table = params.pop("blocks"), params.pop("tokens")
    return _tensors({"tokens.weight": table} | _flatten(params) | _unstack(blocks, "blocks"))


def _unstack(blocks: Mapping[str, Any], prefix: str) -> dict[str, np.ndarray]:
    flat, depth = {}, len(next(_leaves(blocks)))
    for i in range(depth):
        flat |= _flatten(_at(blocks, i), f"{prefix}.{i}.")
    return flat


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    flat = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if not isinstance(value, Mapping):
            flat[path] = np.asarray(value)
        elif "kernel" in value or "scale" in value:
            flat |= _layer(path, {k: np.asarray(v) for k, v in value.items()})
        elif name == "norm" and "q" in value:  # QKNorm
            flat |= {f"{prefix}{k}_norm.weight": np.asarray(v["scale"]) for k, v in value.items()}
        else:
            flat |= _flatten(value, f"{path}.")
    return flat


def _layer(path: str, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    if "scale" in values:  # a norm
        return {f"{path}.{'weight' if k == 'scale' else k}": v for k, v in values.items()}
    kernel, bias = values["kernel"], values["bias"]
    if path.endswith(("qkv", "kv")):  # [D, H, 3, c] here, [3, H, c] there: `unbind` then takes no copy
        kernel, bias = kernel.swapaxes(1, 2), bias.swapaxes(0, 1)
    return {f"{path}.weight": kernel.reshape(len(kernel), -1).T, f"{path}.bias": bias.reshape(-1)}


def _at(tree: Any, index: int) -> Any:
    return {k: _at(v, index) for k, v in tree.items()} if isinstance(tree, Mapping) else np.asarray(tree)[index]


def _leaves(tree: Any):
    for value in tree.values():
        yield from _leaves(value) if isinstance(value, Mapping) else (value,)


def _tensors(flat: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.array(value, np.float32)) for name, value in flat.items()}
