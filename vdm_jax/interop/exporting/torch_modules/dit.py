"""A spatio-temporal DiT trained with vdm_jax, for PyTorch: this file, torch and safetensors are all it needs.

    network = open_network(DiT, "transformer")                  # an ordinary nn.Module, with its weights
    out = network(x, t, tokens=features)                        # x [B, T, H, W, C], t [B] or [B, T]

`sample.py` beside it makes clips: the process that the weights were trained with, guidance, prompts.

    B batch, T frames, H height, W width, C channels, S tokens of a frame, L text tokens, D width, c channels of a head
"""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS = {
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_exact": F.gelu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu2": lambda x: F.relu(x).square(),
    "relu": F.relu,
    "silu": F.silu,
}
GATED = {
    "swiglu": lambda a, b: F.silu(a) * b,
    "geglu": lambda a, b: a * F.gelu(b),
    "geglu_tanh": lambda a, b: F.gelu(a, approximate="tanh") * b,
}


def layer_norm(x: Tensor) -> Tensor:
    """Without learned scale, which adaLN brings."""
    return F.layer_norm(x.float(), x.shape[-1:], eps=1e-6).to(x.dtype)


def rotary(sizes: list[int], head_dim: int) -> Tensor:
    """Angles of a grid, `[points, c / 2]`: equal shares of the pairs for each dim, the rest to the first."""
    share = head_dim // (2 * len(sizes))
    pairs = [head_dim // 2 - share * (len(sizes) - 1), *[share] * (len(sizes) - 1)]
    grids = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in sizes), indexing="ij")
    parts = [
        grid.reshape(-1, 1) / 10_000 ** (torch.arange(count, dtype=torch.float64) / count)
        for grid, count in zip(grids, pairs)
    ]
    return torch.cat(parts, dim=1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """`x [..., N, H, c]` by `angles [N, c / 2]`; channel i and channel i + c / 2 are a pair."""
    cos, sin = (f(angles)[:, None].to(x) for f in (torch.cos, torch.sin))
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def sincos(points: Tensor, dim: int) -> Tensor:
    """Sines, then cosines, `[N] -> [N, dim]` in float64."""
    angles = points.double()[:, None] / 10_000 ** (torch.arange(dim // 2, dtype=torch.float64) / (dim // 2))
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class RMSNorm(nn.Module):
    """Over the last dim, statistics in float32."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * self.weight


class Attention(nn.Module):
    """Queries from `x [..., N, D]`, keys and values from `source [..., M, D]`."""

    def __init__(self, dim: int, heads: int, qk_norm: str = "none"):
        super().__init__()
        self.heads, self.qk_norm = heads, qk_norm
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))
        if qk_norm != "none":
            size = dim if qk_norm == "all" else dim // heads
            self.norm_q, self.norm_k = RMSNorm(size), RMSNorm(size)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None = None, angles: Tensor | None = None) -> Tensor:
        q, k = self.q(x), self.k(source)
        if self.qk_norm == "all":
            q, k = self.norm_q(q), self.norm_k(k)
        q, k, v = (y.unflatten(-1, (self.heads, -1)) for y in (q, k, self.v(source)))
        if self.qk_norm == "head":
            q, k = self.norm_q(q), self.norm_k(k)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        q, k, v = (y.transpose(-3, -2) for y in (q, k, v))  # [..., H, N, c]
        return self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(-3, -2).flatten(-2))


class MLP(nn.Module):
    """`[..., D] -> [..., D]`; gated ones take two halves of the hidden channels."""

    def __init__(self, dim: int, hidden: int, activation: str):
        super().__init__()
        self.activation = activation
        self.up = nn.Linear(dim, hidden * (2 if activation in GATED else 1))
        self.down = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x)
        gated = self.activation in GATED
        return self.down(GATED[self.activation](*h.chunk(2, dim=-1)) if gated else ACTIVATIONS[self.activation](h))


class TwoLayers(nn.Module):
    """Linear - activation - Linear."""

    def __init__(self, in_dim: int, dim: int, activation: str, nullable: bool = False):
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.hidden, self.out = nn.Linear(in_dim, dim), nn.Linear(dim, dim)
        self.null = nn.Parameter(torch.zeros(dim)) if nullable else None

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.activation(self.hidden(x)))

    def of_number(self, x: Tensor) -> Tensor:
        """A number `[...]` through 256 sinusoids to `[..., D]`; -1 is unconditional where that is learned."""
        half = self.hidden.in_features // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=x.device) / half)
        angles = x.float()[..., None] * frequencies
        y = self(torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.hidden.weight.dtype))
        return y if self.null is None else torch.where((x == -1)[..., None], self.null, y)


class Block(nn.Module):
    """Attention over one of `full`, `space`, `time`; cross-attention to text; MLP.  Tokens are `[B, T, S, D]`."""

    def __init__(self, cfg: SimpleNamespace, over: str):
        super().__init__()
        d, self.over, self.causal = cfg.dim, over, cfg.causal and over != "space"
        self.attention = Attention(d, cfg.heads, cfg.qk_norm)
        with_text = cfg.text_dim > 0 and over != "time"
        self.cross = Attention(d, cfg.heads, cfg.qk_norm) if with_text else None
        self.cross_norm = nn.LayerNorm(d, eps=1e-6) if with_text and cfg.cross_norm else None
        self.mlp = MLP(d, cfg.mlp_dim or 4 * d, cfg.mlp)
        single = cfg.adaln == "single"
        self.modulation = nn.Parameter(torch.zeros(6, d)) if single else nn.Linear(d, 6 * d)

    def forward(self, x: Tensor, ctx: SimpleNamespace) -> Tensor:
        if ctx.modulation is None:
            rows = self.modulation(ctx.time).unflatten(-1, (6, -1))
        else:
            rows = ctx.modulation + self.modulation
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = rows.split(1, dim=2)  # [B, T, 1, D]
        x = x + gate_a * self.attend(layer_norm(x) * (1 + scale_a) + shift_a, ctx)
        if self.cross is not None:
            h = x if self.cross_norm is None else self.cross_norm(x)
            if ctx.text.ndim == 3:  # one prompt for all frames
                x = x + self.cross(h.flatten(1, 2), ctx.text, ctx.text_mask).view_as(x)
            else:
                x = x + self.cross(h, ctx.text, ctx.text_mask)
        return x + gate_m * self.mlp(layer_norm(x) * (1 + scale_m) + shift_m)

    def attend(self, h: Tensor, ctx: SimpleNamespace) -> Tensor:
        """Self-attention of all tokens, of those of each frame, or of each place through time."""
        frames, space = h.shape[1:3]
        angles = ctx.angles[self.over]
        if self.over == "space":
            return self.attention(h, h, None, angles)
        of_frame = torch.arange(frames, device=h.device)
        if self.over == "time":
            mask = of_frame[:, None] >= of_frame if self.causal else None
            h = h.transpose(1, 2)
            return self.attention(h, h, mask, angles).transpose(1, 2)
        of_token = of_frame.repeat_interleave(space)
        mask = of_token[:, None] >= of_token if self.causal else None
        flat = h.flatten(1, 2)
        return self.attention(flat, flat, mask, angles).unflatten(1, (frames, space))


class Unit(nn.Module):
    """One full block, or a spatial and a temporal one."""

    def __init__(self, cfg: SimpleNamespace):
        super().__init__()
        full = cfg.attention == "full"
        self.block = Block(cfg, "full") if full else None
        self.spatial, self.temporal = (None, None) if full else (Block(cfg, "space"), Block(cfg, "time"))

    def forward(self, x: Tensor, ctx: SimpleNamespace, in_time: Tensor | None) -> Tensor:
        if self.block is not None:
            return self.block(x, ctx)
        x = self.spatial(x, ctx)
        return self.temporal(x if in_time is None else x + in_time, ctx)


class DiT(nn.Module):
    """The network; `cfg` is `transformer/config.json`."""

    def __init__(self, cfg: SimpleNamespace):
        super().__init__()
        self.cfg, d = cfg, cfg.dim
        pixels = math.prod(cfg.patch)
        self.patch_in = nn.Linear(pixels * (cfg.channels + cfg.concat_channels + cfg.known_channel), d)
        self.time = TwoLayers(256, d, "silu")
        self.label = nn.Embedding(cfg.classes + 1, d) if cfg.classes else None
        self.scalars = nn.ModuleDict({name: TwoLayers(256, d, "silu", nullable=True) for name in cfg.scalars})
        two = cfg.text_projection == "mlp"
        to_width = TwoLayers(cfg.text_dim, d, "gelu") if two else nn.Linear(cfg.text_dim, d)
        self.text_in = to_width if cfg.text_dim else None
        self.text_pool = nn.Linear(d, d) if cfg.pooled_text else None
        if cfg.positions == "learned":
            frames, height, width = cfg.grid
            self.frame_table = nn.Parameter(torch.zeros(frames, 1, d))
            self.patch_table = nn.Parameter(torch.zeros(height, width, d))
        self.units = nn.ModuleList(Unit(cfg) for _ in range(cfg.depth))
        single = cfg.adaln == "single"
        self.modulation = nn.Linear(d, 6 * d) if single else None
        self.final_modulation = nn.Parameter(torch.zeros(2, d)) if single else nn.Linear(d, 2 * d)
        self.patch_out = nn.Linear(d, pixels * cfg.channels)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        tokens: Tensor | None = None,
        tokens_mask: Tensor | None = None,
        vector: dict[str, Tensor] | None = None,
        concat: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Tensor:
        """Args:
          x: `[B, T, H, W, C]`.
          t: `[B]` or, for each frame its own, `[B, T]`; in the unit of `Process.told`.
          tokens, tokens_mask: text `[B, L, E]`, or for each frame of tokens `[B, T', L, E]`; True at real ones.
          vector: name -> `[B]`, `label` and the names of `scalars`; -1 is unconditional.
          concat: `[B, T, H, W, C']`.
          known: `[B, T]` or `[B, T, H, W, 1]`, True where the content is given.

        Returns:
          What was trained to be predicted, like x; see `Process.clean`.
        """
        cfg, (pt, ph, pw) = self.cfg, self.cfg.patch
        b, frames, height, width, _ = x.shape
        grid = (frames // pt, height // ph, width // pw)
        text = None if self.text_in is None else self.text_in(tokens)
        e = self.embed_time(t if t.ndim == 2 else t[:, None].expand(b, frames), text, tokens_mask, vector or {})
        time, single = F.silu(e), self.modulation is not None
        ctx = SimpleNamespace(
            time=time,
            modulation=self.modulation(time).unflatten(-1, (6, -1)) if single else None,
            text=text,
            text_mask=None if tokens_mask is None else self.text_mask(tokens_mask, text),
            angles=self.angles(grid, x.device),
        )
        parts = [x] if concat is None else [x, concat]
        if known is not None:
            known = known[..., None, None, None] if known.ndim == 2 else known
            parts.append(known.to(x).expand(*x.shape[:-1], 1))
        h = self.patch_in(to_patches(torch.cat(parts, dim=-1), grid, cfg.patch))
        in_frame, in_time = self.positions(grid, x)
        h = h if in_frame is None else h + in_frame
        for index, unit in enumerate(self.units):
            h = unit(h, ctx, in_time if index == 0 else None)
        rows = self.final_modulation + e[:, :, None] if single else self.final_modulation(time).unflatten(-1, (2, -1))
        shift, scale = rows.split(1, dim=2)
        return to_pixels(self.patch_out(layer_norm(h) * (1 + scale) + shift), grid, cfg.patch)

    def text_mask(self, mask: Tensor, text: Tensor) -> Tensor:
        """As attention takes it: `[B, 1, 1, L]`, or with text for each frame `[B, 1 or T', 1, 1, L]`."""
        frames = mask[:, None] if mask.ndim < text.ndim - 1 else mask
        return frames[..., None, None, :]

    def embed_time(self, t: Tensor, text: Tensor | None, mask: Tensor | None, vector: dict[str, Tensor]) -> Tensor:
        """`[B, T', D]`: the time of each frame, numbers and labels, the mean of the text."""
        e = self.time.of_number(t)
        e = e.unflatten(1, (-1, self.cfg.patch[0])).mean(dim=2)
        if self.label is not None:
            label = vector["label"]
            e = e + self.label(torch.where(label < 0, self.cfg.classes, label))[:, None]
        for name, embedding in self.scalars.items():
            e = e + embedding.of_number(vector[name])[:, None]
        if self.text_pool is not None:
            kept = torch.ones(text.shape[:-1], device=text.device) if mask is None else mask
            kept = (kept[:, None] if kept.ndim < text.ndim - 1 else kept)[..., None].to(text.dtype)
            mean = (text * kept).sum(-2) / kept.sum(-2).clamp(min=1)
            pooled = self.text_pool(F.silu(mean))
            e = e + (pooled if pooled.ndim == 3 else pooled[:, None])
        return e

    def angles(self, grid: tuple[int, int, int], device: torch.device) -> dict[str, Tensor | None]:
        """Rotary positions of each kind of attention."""
        sizes = {"full": list(grid), "space": list(grid[1:]), "time": [grid[0]]}
        head_dim = self.cfg.dim // self.cfg.heads
        return {over: rotary(n, head_dim).to(device) if self.cfg.rope else None for over, n in sizes.items()}

    def positions(self, grid: tuple[int, int, int], like: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """What is added to the tokens: `[T', S, D]` at the entrance, `[T', 1, D]` before the first temporal block."""
        (t, h, w), d, kind = grid, self.cfg.dim, self.cfg.positions
        if kind == "learned":
            return self.frame_table[:t] + self.patch_table[:h, :w].reshape(1, h * w, d), None
        if kind == "sincos":
            share = d // 3 // 2 * 2
            parts = [sincos(torch.arange(n), share) for n in grid]
            along = [parts[0][:, None, None], parts[1][None, :, None], parts[2][None, None]]
            table = torch.cat([part.expand(t, h, w, share) for part in along], dim=-1)
            return F.pad(table, (0, d - 3 * share)).reshape(t, h * w, d).to(like), None
        if kind == "apart":
            spans = zip((h, w), self.cfg.grid[1:])
            up, across = (sincos(torch.arange(n, dtype=torch.float64) * (full / n), d // 2) for n, full in spans)
            table = torch.cat([across[None].expand(h, w, -1), up[:, None].expand(h, w, -1)], dim=-1)
            in_time = sincos(torch.arange(t), d)[:, None] * (t > 1)  # a picture by itself has no place in time
            return table.reshape(1, h * w, d).to(like), in_time.to(like)
        return None, None


def to_patches(x: Tensor, grid: tuple[int, int, int], patch: list[int]) -> Tensor:
    """`[B, T, H, W, C] -> [B, T', S, pt ph pw C]`."""
    (t, h, w), (pt, ph, pw) = grid, patch
    x = x.reshape(len(x), t, pt, h, ph, w, pw, -1).permute(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(len(x), t, h * w, -1)


def to_pixels(x: Tensor, grid: tuple[int, int, int], patch: list[int]) -> Tensor:
    """The inverse of `to_patches`."""
    (t, h, w), (pt, ph, pw) = grid, patch
    x = x.reshape(len(x), t, h, w, pt, ph, pw, -1).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(len(x), t * pt, h * ph, w * pw, -1)


class TextBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attention, self.mlp = Attention(dim, heads), MLP(dim, 4 * dim, "gelu")

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.attention_norm(x)
        x = x + self.attention(h, h, mask)
        return x + self.mlp(self.mlp_norm(x))


class TextEncoder(nn.Module):
    """Token ids and mask `[B, L]` to features `[B, L, E]`; `cfg` is `text_encoder/config.json`."""

    def __init__(self, cfg: SimpleNamespace):
        super().__init__()
        self.tokens = nn.Embedding(cfg.tokens, cfg.dim)
        self.positions = nn.Parameter(torch.zeros(cfg.length, cfg.dim))
        self.blocks = nn.ModuleList(TextBlock(cfg.dim, cfg.heads) for _ in range(cfg.depth))
        self.norm = nn.LayerNorm(cfg.dim, eps=1e-6)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions[: ids.shape[1]]
        for block in self.blocks:
            x = block(x, mask[:, None, None])
        return self.norm(x)


Network = DiT  # as `sample.py` calls it


def open_network(cls: type[nn.Module], folder: str | Path, device="cpu", dtype=torch.float32) -> nn.Module:
    """`DiT` or `TextEncoder` of a folder (`config.json`, safetensors); every tensor must be there, and no other."""
    module = cls(SimpleNamespace(**json.loads((Path(folder) / "config.json").read_text("utf-8"))))
    files = sorted(Path(folder).glob("*.safetensors"))
    module.load_state_dict({name: value for file in files for name, value in load_file(file).items()}, strict=True)
    return module.to(device, dtype).eval()
