"""A spatio-temporal UNet trained with vdm_jax, for PyTorch: this file, torch and safetensors are all it needs.

    network = open_network(UNet, "unet")                        # an ordinary nn.Module, with its weights
    out = network(x, t, tokens=features)                        # x [B, T, H, W, C], t [B] or [B, T]

`sample.py` beside it makes clips: the process that the weights were trained with, guidance, prompts.  What makes a
video model of the trunk is one of four (`temporal` of `config.json`):

    none          frames are pictures
    convolution   behind each residual block convolutions over time, behind each transformer one over time
    motion        behind each layer a transformer over time, with positions
    mixed         behind each residual block and each block of a transformer one over time, blended with it

Parts are named as in diffusers' UNets.  Inside, clips are `[B, T, C, H, W]`.

    B batch, T frames, H height, W width, C channels, S pixels of a frame, G groups of N tokens, L text tokens
"""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

ENTRY_HEADS = 8  # of the transformer over time that `convolution` begins with
LAYER_EPS, GROUP_EPS = 1e-5, 1e-6  # of the norms in transformers, and in front of them


def framewise(part: nn.Module, x: Tensor) -> Tensor:
    """A part that works on pictures, on each frame of `[B, T, C, H, W]`."""
    return part(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def clipwise(part: nn.Module, x: Tensor) -> Tensor:
    """A part that works on whole clips `[B, C, T, H, W]`."""
    return part(x.transpose(1, 2)).transpose(1, 2)


def conv2d(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Three by three pixels."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1)


def conv_in_time(inputs: int, outputs: int) -> nn.Conv3d:
    """Three frames of a pixel."""
    return nn.Conv3d(inputs, outputs, (3, 1, 1), padding=(1, 0, 0))


def sinusoids(x: Tensor, dim: int) -> Tensor:
    """A number `[...]` as cosines, then sines, `[..., dim]` in float32."""
    half = dim // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=x.device) / half)
    angles = x.float()[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def position_table(frames: int, dim: int) -> Tensor:
    """Places in time, `[T, dim]`: sines at even channels, cosines at odd ones."""
    frequencies = torch.exp(torch.arange(0, dim, 2) * (-math.log(10_000) / dim))
    angles = torch.arange(frames)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class TwoLayers(nn.Module):
    """Linear - SiLU - Linear."""

    def __init__(self, inputs: int, dim: int, hidden: int = 0):
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(inputs, hidden or dim), nn.Linear(hidden or dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x.to(self.linear_1.weight.dtype))))


class Blend(nn.Module):
    """`a x + (1 - a) other`, a the sigmoid of a learned number."""

    def __init__(self):
        super().__init__()
        self.mix_factor = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        share = torch.sigmoid(self.mix_factor)
        return share * x + (1 - share) * other


class ResBlock(nn.Module):
    """Two convolutions, of frames with norms of each or, `in_time`, over time with norms of the clip."""

    def __init__(self, inputs: int, channels: int, cfg: SimpleNamespace, eps: float, in_time: bool = False):
        super().__init__()
        self.over, conv = (clipwise, conv_in_time) if in_time else (framewise, conv2d)
        self.norm1, self.conv1 = nn.GroupNorm(cfg.groups, inputs, eps), conv(inputs, channels)
        self.time_emb_proj = nn.Linear(4 * cfg.widths[0], channels)
        self.norm2, self.conv2 = nn.GroupNorm(cfg.groups, channels, eps), conv(channels, channels)
        self.conv_shortcut = nn.Conv2d(inputs, channels, 1) if inputs != channels else None

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.over(self.conv1, F.silu(self.over(self.norm1, x))) + self.time_emb_proj(time)[..., None, None]
        h = self.over(self.conv2, F.silu(self.over(self.norm2, h)))
        return h + (x if self.conv_shortcut is None else framewise(self.conv_shortcut, x))


class MixedResBlock(nn.Module):
    """A residual block of frames, blended with one over time behind it."""

    def __init__(self, inputs: int, channels: int, cfg: SimpleNamespace, eps: float):
        super().__init__()
        self.spatial_res_block = ResBlock(inputs, channels, cfg, eps)
        self.temporal_res_block = ResBlock(channels, channels, cfg, eps, in_time=True)
        self.time_mixer = Blend()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        x = self.spatial_res_block(x, time)
        return self.time_mixer(x, self.temporal_res_block(x, time))


class TemporalConvs(nn.Module):
    """Four times norm, SiLU and a convolution over time, added to x."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.conv1, self.conv2, self.conv3, self.conv4 = (
            # Names count an entry, of use in training alone, that the first of the four has not.
            nn.Sequential(nn.GroupNorm(groups, channels), nn.SiLU(), *between, conv_in_time(channels, channels))
            for between in ([], [nn.Identity()], [nn.Identity()], [nn.Identity()])
        )

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            h = clipwise(conv, h)
        return x + h


class Attention(nn.Module):
    """Queries from `x [B, N, C]`, keys and values from `source [B, M, E]`, with `mask [B, M]` True at real ones."""

    def __init__(self, dim: int, heads: int, source_dim: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k, self.to_v = (nn.Linear(source_dim, dim, bias=False) for _ in range(2))
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        parts = (self.to_q(x), self.to_k(source), self.to_v(source))
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in parts)  # [B, heads, N, c]
        mask = None if mask is None else mask[:, None, None]
        return self.to_out[0](F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))


class GatedLinear(nn.Module):
    """One half of a projection, times the GELU of the other."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.proj = nn.Linear(dim, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.proj(x).chunk(2, dim=-1)
        return a * F.gelu(b)


class MLP(nn.Module):
    """`[..., C] -> [..., C]`."""

    def __init__(self, dim: int):
        super().__init__()
        self.net = nn.Sequential(GatedLinear(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Block(nn.Module):
    """Attention within each group of tokens; to the text or, without `text_dim`, once more within; MLP."""

    def __init__(self, dim: int, heads: int, text_dim: int = 0):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim, eps=LAYER_EPS) for _ in range(3))
        self.attn1, self.attn2 = Attention(dim, heads, dim), Attention(dim, heads, text_dim or dim)
        self.ff = MLP(dim)

    def forward(self, x: Tensor, text: Tensor | None, mask: Tensor | None, positions: Tensor | None = None) -> Tensor:
        """`x [B, G, N, C]`, `text [B, L, E]` or `[B, G, L, E]`, `mask [B, L]`, `positions [N, C]`."""
        places = 0 if positions is None else positions
        h = (self.norm1(x) + places).flatten(0, 1)
        x = x + self.attn1(h, h).view_as(x)
        h = self.norm2(x) + places
        if text is None:
            h = h.flatten(0, 1)
            h = self.attn2(h, h)
        elif text.ndim == 3:  # one prompt for all groups
            h = self.attn2(h.flatten(1, 2), text, mask)
        else:
            mask = None if mask is None else mask.repeat_interleave(text.shape[1], dim=0)
            h = self.attn2(h.flatten(0, 1), text.flatten(0, 1), mask)
        x = x + h.view_as(x)
        return x + self.ff(self.norm3(x))


class FrameBlock(Block):
    """A block over the frames of each pixel, with an MLP in front; of text for each frame it reads the first's."""

    def __init__(self, dim: int, heads: int, text_dim: int):
        super().__init__(dim, heads, text_dim)
        self.norm_in, self.ff_in = nn.LayerNorm(dim, eps=LAYER_EPS), MLP(dim)

    def forward(self, x: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        """`x [B, T, S, C]`."""
        tubes = x.transpose(1, 2)
        tubes = tubes + self.ff_in(self.norm_in(tubes))
        return super().forward(tubes, text[:, 0] if text.ndim == 4 else text, mask).transpose(1, 2)


class SpatialTransformer(nn.Module):
    """Blocks over the pixels of each frame that also read the text, added to x; `mixed` with blocks over time."""

    def __init__(self, channels: int, heads: int, depth: int, cfg: SimpleNamespace):
        super().__init__()
        self.channels, self.mixed = channels, cfg.temporal == "mixed"
        self.norm = nn.GroupNorm(cfg.groups, channels, GROUP_EPS)
        self.proj_in, self.proj_out = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(Block(channels, heads, cfg.text_dim) for _ in range(depth))
        if self.mixed:
            blocks = (FrameBlock(channels, heads, cfg.text_dim) for _ in range(depth))
            self.temporal_transformer_blocks = nn.ModuleList(blocks)
            self.time_pos_embed, self.time_mixer = TwoLayers(channels, channels, 4 * channels), Blend()

    def forward(self, x: Tensor, ctx: SimpleNamespace) -> Tensor:
        tokens = self.proj_in(framewise(self.norm, x).flatten(3).transpose(2, 3))  # [B, T, S, C]
        if self.mixed:
            frames = torch.arange(x.shape[1], device=x.device)
            rows = self.time_pos_embed(sinusoids(frames, self.channels))[:, None]
        for index, block in enumerate(self.transformer_blocks):
            tokens = block(tokens, ctx.text, ctx.text_mask)
            if self.mixed:
                over_time = self.temporal_transformer_blocks[index](tokens + rows, ctx.text, ctx.text_mask)
                tokens = self.time_mixer(tokens, over_time)
        return x + self.proj_out(tokens).transpose(2, 3).unflatten(3, x.shape[3:])


class TemporalTransformer(nn.Module):
    """Blocks over the frames of each pixel, added to x; `max_frames` is how many places each attention sees, 0 none."""

    def __init__(self, channels: int, dim: int, heads: int, depth: int, groups: int, max_frames: int = 0):
        super().__init__()
        self.dim, self.max_frames = dim, max_frames
        self.norm = nn.GroupNorm(groups, channels, GROUP_EPS)
        self.proj_in, self.proj_out = nn.Linear(channels, dim), nn.Linear(dim, channels)
        self.transformer_blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        places = position_table(x.shape[1], self.dim).to(x) if self.max_frames else None
        tubes = self.proj_in(clipwise(self.norm, x).flatten(3).permute(0, 3, 1, 2))  # [B, S, T, C]
        for block in self.transformer_blocks:
            tubes = block(tubes, None, None, places)
        return x + self.proj_out(tubes).permute(0, 2, 3, 1).unflatten(3, x.shape[3:])


class Resize(nn.Module):
    """`[B, T, C, H, W]` to half the height and width, rounded up, or to twice that, cut to `size`."""

    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.conv = conv2d(channels, channels, stride)

    def forward(self, x: Tensor, size: torch.Size | None = None) -> Tensor:
        if size is not None:
            x = x.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)[..., : size[0], : size[1]]
        return framewise(self.conv, x)


class Level(nn.Module):
    """The layers of a level, or of the middle, and the ways from it.

    Args:
      cfg: of the network.
      level: its number, from the finest.
      inputs: channels that each layer reads.
      eps: of the norms of residual blocks.
      depth, motion_depth: blocks of the transformer, and of the motion module, of each layer that has one.
    """

    def __init__(
        self, cfg: SimpleNamespace, level: int, inputs: list[int], eps: float, depth: list[int], motion: list[int]
    ):
        super().__init__()
        c, heads, unit = cfg.widths[level], cfg.heads[level], cfg.temporal
        residual = MixedResBlock if unit == "mixed" else ResBlock
        self.resnets = nn.ModuleList(residual(count, c, cfg, eps) for count in inputs)
        convs = inputs if unit == "convolution" else ()
        self.temp_convs = nn.ModuleList(TemporalConvs(c, cfg.groups) for _ in convs)
        depth = [blocks for blocks in depth if blocks]
        self.attentions = nn.ModuleList(SpatialTransformer(c, heads, blocks, cfg) for blocks in depth)
        behind = depth if unit == "convolution" else ()
        self.temp_attentions = nn.ModuleList(TemporalTransformer(c, c, heads, 1, cfg.groups) for _ in behind)
        self.motion_modules = nn.ModuleList(
            TemporalTransformer(c, c, cfg.motion_heads[level], blocks, cfg.groups, cfg.max_frames)
            for blocks in (motion if unit == "motion" else ())
            if blocks
        )
        self.downsamplers, self.upsamplers = nn.ModuleList(), nn.ModuleList()

    def layer(self, index: int, x: Tensor, ctx: SimpleNamespace) -> Tensor:
        """One layer; those of the middle do not have all parts."""
        x = self.resnets[index](x, ctx.time)
        if index < len(self.temp_convs):
            x = self.temp_convs[index](x)
        if index < len(self.attentions):
            x = self.attentions[index](x, ctx)
        for over_time in (self.temp_attentions, self.motion_modules):
            if index < len(over_time):
                x = over_time[index](x)
        return x


class UNet(nn.Module):
    """The network; `cfg` is `unet/config.json`."""

    def __init__(self, cfg: SimpleNamespace):
        super().__init__()
        self.cfg, widths, unit = cfg, cfg.widths, cfg.temporal
        self.conv_in = conv2d(cfg.channels + cfg.concat_channels, widths[0])
        self.time_embedding = TwoLayers(widths[0], 4 * widths[0])
        numbers = len(cfg.scalars) * cfg.scalar_dim
        self.add_embedding = TwoLayers(numbers, 4 * widths[0]) if numbers else None
        inner = ENTRY_HEADS * (widths[0] // cfg.heads[0])
        entry = TemporalTransformer(widths[0], inner, ENTRY_HEADS, 1, cfg.groups) if unit == "convolution" else None
        self.transformer_in = entry
        last, motion = len(widths) - 1, cfg.motion_depth or [0] * len(widths)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        for level, (width, count) in enumerate(zip(widths, cfg.layers)):
            inputs = ([widths[max(level - 1, 0)]] + [width] * count)[:count]
            eps = cfg.eps_down[level] if cfg.eps_down else cfg.eps
            block = Level(cfg, level, inputs, eps, [cfg.depth[level]] * count, [motion[level]] * count)
            if level < last:
                block.downsamplers.append(Resize(width, stride=2))
            self.down_blocks.append(block)
        middle = ([cfg.mid_depth], [cfg.motion_mid_depth])
        self.mid_block = Level(cfg, last, [widths[last]] * 2, cfg.eps, *middle)
        for level, (width, count) in reversed(list(enumerate(zip(widths, cfg.layers)))):
            own = [widths[min(level + 1, last)], *[width] * count]
            kept = [*[width] * count, widths[max(level - 1, 0)]]
            eps = cfg.eps_up[level] if cfg.eps_up else cfg.eps
            depths = ([cfg.depth[level]] * (count + 1), [motion[level]] * (count + 1))
            block = Level(cfg, level, [a + b for a, b in zip(own, kept)], eps, *depths)
            if level:
                block.upsamplers.append(Resize(width, stride=1))
            self.up_blocks.append(block)
        self.conv_norm_out = nn.GroupNorm(cfg.groups, widths[0], cfg.eps)
        self.conv_out = conv2d(widths[0], cfg.channels)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        tokens: Tensor,
        tokens_mask: Tensor | None = None,
        vector: dict[str, Tensor] | None = None,
        concat: Tensor | None = None,
    ) -> Tensor:
        """Args:
          x: `[B, T, H, W, C]`.
          t: `[B]` or, for each frame its own, `[B, T]`; in the unit of `Process.told`.
          tokens: text `[B, L, E]`, or for each frame `[B, T, L, E]`.
          tokens_mask: `[B, L]`, True at real ones.
          vector: name -> `[B]`, the names of `scalars`.
          concat: `[B, T, H, W, C']`.

        Returns:
          What was trained to be predicted, like x; see `Process.clean`.
        """
        if self.cfg.temporal == "motion" and x.shape[1] > self.cfg.max_frames:
            raise ValueError(f"x: {x.shape[1]} frames are more than max_frames={self.cfg.max_frames}")
        time = F.silu(self.embed_time(t if t.ndim == 2 else t[:, None].expand(x.shape[:2]), vector or {}))
        ctx = SimpleNamespace(time=time, text=tokens.to(x.dtype), text_mask=tokens_mask)
        x = x if concat is None else torch.cat([x, concat.to(x)], dim=-1)
        h = framewise(self.conv_in, x.movedim(-1, 2))
        h = h if self.transformer_in is None else self.transformer_in(h)
        kept = [h]
        for level in self.down_blocks:
            for index in range(len(level.resnets)):
                h = level.layer(index, h, ctx)
                kept.append(h)
            for resize in level.downsamplers:
                h = resize(h)
                kept.append(h)
        for index in range(2):
            h = self.mid_block.layer(index, h, ctx)
        for level in self.up_blocks:
            for index in range(len(level.resnets)):
                h = level.layer(index, torch.cat([h, kept.pop()], dim=2), ctx)
            for resize in level.upsamplers:
                h = resize(h, kept[-1].shape[3:])
        return framewise(self.conv_out, F.silu(framewise(self.conv_norm_out, h))).movedim(2, -1)

    def embed_time(self, t: Tensor, vector: dict[str, Tensor]) -> Tensor:
        """`[B, T, 4 widths[0]]`: the time of each frame, and what is known of the clip in numbers."""
        e = self.time_embedding(sinusoids(t, self.cfg.widths[0]))
        if self.add_embedding is None:
            return e
        numbers = [sinusoids(vector[name], self.cfg.scalar_dim) for name in self.cfg.scalars]
        return e + self.add_embedding(torch.cat(numbers, dim=-1))[:, None]


class TextAttention(nn.Module):
    """Attention of the tokens of a prompt `[B, L, E]` to those that `mask [B, 1, 1, L]` has."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        return self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))


class TextBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attention = TextAttention(dim, heads)
        self.mlp = nn.ModuleDict({"up": nn.Linear(dim, 4 * dim), "down": nn.Linear(4 * dim, dim)})

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), mask)
        return x + self.mlp["down"](F.gelu(self.mlp["up"](self.mlp_norm(x)), approximate="tanh"))


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


Network = UNet  # as `sample.py` calls it


def open_network(cls: type[nn.Module], folder: str | Path, device="cpu", dtype=torch.float32) -> nn.Module:
    """`UNet` or `TextEncoder` of a folder (`config.json`, safetensors); every tensor must be there, and no other."""
    module = cls(SimpleNamespace(**json.loads((Path(folder) / "config.json").read_text("utf-8"))))
    files = sorted(Path(folder).glob("*.safetensors"))
    module.load_state_dict({name: value for file in files for name, value in load_file(file).items()}, strict=True)
    return module.to(device, dtype).eval()
