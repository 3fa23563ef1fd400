"""CogVideoX: a DiT that reads its text in the same sequence as the clip (arXiv 2408.06072).

  text [B, L, D], clip [B, T, S, D];  a row of modulation for each frame, and one for the text, of each block's own

    text', clip' = JointAttention(modulate(norm(text)), modulate(norm(clip)));  text += gate text';  clip += gate clip'
    text += gate MLP(modulate(norm(text)));  clip += gate MLP(modulate(norm(clip)))

Norms, attention and MLP are the same for both, modulation is not ("expert adaLN").  The time of each frame is its own,
that of the text is their mean; one time a clip is the published network.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from vdm_jax.models.cogvideox.config import CogVideoXConfig, Grid
from vdm_jax.models.cogvideox.joint import JointAttention, JointLayout
from vdm_jax.models.dit.layout import TokenLayout
from vdm_jax.nn.embeddings import ScalarEmbedding, sincos_table_at
from vdm_jax.nn.folding import fold
from vdm_jax.nn.linear import Linear, param
from vdm_jax.nn.mlp import MLP
from vdm_jax.nn.norms import LayerNorm, modulate
from vdm_jax.nn.rotary import rotary_table_at
from vdm_jax.nn.stack import run_stack, stack
from vdm_jax.sharding.rules import constrain
from vdm_jax.types import Condition, as_time, check_condition

Array = jax.Array
Tokens = tuple[Array, Array]  # of the text [B, L, D], of the clip [B, T, S, D]
_ZEROS = jax.nn.initializers.zeros
_NORMAL = jax.nn.initializers.normal(0.02)
_PATCHES = "b (t pt) (h ph) (w pw) c -> b t (h w) (pt ph pw c)"
_PIXELS = "b t (h w) (pt ph pw c) -> b (t pt) (h ph) (w pw) c"


@dataclasses.dataclass(frozen=True)
class Context:
    """What every block of one forward pass shares.

    Attributes:
      time: `[B, T + 1, M]` after SiLU: of each frame, and of the text.
      layout: of text and clip.
      mask: of `JointLayout.key_mask`.
      rotary: `[T, S, 2, c / 2]`, or None.
    """

    time: Array
    layout: JointLayout
    mask: Array | None
    rotary: Array | None


class Half(nnx.Module):
    """What stands in front of attention, or of the MLP: the norm and the modulation."""

    def __init__(self, cfg: CogVideoXConfig, *, rngs: nnx.Rngs):
        self.norm = LayerNorm(cfg.dim, eps=cfg.norm_eps, rngs=rngs)
        axes = ("condition", None, "embed_out")
        self.modulation = Linear(cfg.time_dim, (6, cfg.dim), axes=axes, init=_ZEROS, rngs=rngs)

    def __call__(self, tokens: Tokens, ctx: Context) -> tuple[Tokens, Tokens]:
        """Modulated tokens, and the gates of what is made of them."""
        text, clip = tokens
        rows = constrain(self.modulation(ctx.time), "batch", None, None, None)  # [B, T + 1, 6, D]
        shift_t, scale_t, gate_t = jnp.split(rows[:, -1, 3:], 3, axis=-2)  # [B, 1, D]
        shift_c, scale_c, gate_c = jnp.split(fold(rows[:, :-1, :3], 2), 3, axis=-2)  # [B T, 1, D] as clip [B T, S, D]
        text = modulate(self.norm(text), shift_t, scale_t)
        clip = modulate(self.norm(fold(clip, 2)), shift_c, scale_c).reshape(clip.shape)
        return (text, clip), (gate_t, gate_c)


class Block(nnx.Module):
    """See the module docstring."""

    def __init__(self, cfg: CogVideoXConfig, *, rngs: nnx.Rngs):
        self.before_attention = Half(cfg, rngs=rngs)
        self.attention = JointAttention(cfg.dim, cfg.heads, kernel=cfg.kernel, rngs=rngs)
        self.before_mlp = Half(cfg, rngs=rngs)
        self.mlp = MLP(cfg.dim, 4 * cfg.dim, activation="gelu", rngs=rngs)

    def __call__(self, tokens: Tokens, ctx: Context) -> Tokens:
        """Text and clip to text and clip."""
        (text, clip), gates = self.before_attention(tokens, ctx)
        text, clip = (checkpoint_name(h, "attention_in") for h in (text, clip))
        tokens = _add(tokens, gates, self.attention(text, clip, ctx.layout, ctx.mask, ctx.rotary))
        (text, clip), gates = self.before_mlp(tokens, ctx)
        return _add(tokens, gates, tuple(checkpoint_name(self.mlp(h), "mlp_hidden") for h in (text, clip)))


def _add(tokens: Tokens, gates: Tokens, new: Tokens) -> Tokens:
    (text, clip), (gate_t, gate_c), (text_, clip_) = tokens, gates, new
    clip_ = fold(clip, 2) + gate_c * fold(clip_, 2)
    return text + gate_t * text_, clip_.reshape(clip.shape)


class CogVideoX(nnx.Module):
    """See `CogVideoXConfig`.

    Args:
      config: the architecture.
      rngs: `params` is used.
    """

    def __init__(self, config: CogVideoXConfig, rngs: nnx.Rngs):
        cfg, d = config, config.dim
        self.config = config
        pixels = int(np.prod(cfg.patch))
        self.patch_in = Linear(pixels * cfg.in_channels, d, axes=("patch", "embed"), rngs=rngs)
        self.text_in = Linear(cfg.text_dim, d, axes=("text", "embed"), rngs=rngs)
        table = (cfg.text_length + int(np.prod(cfg.sample_grid)), d)
        learned = cfg.positions == "rope_learned"
        self.positions = param(rngs, _NORMAL, table, (None, "embed")) if learned else None
        self.time = ScalarEmbedding(cfg.time_dim, frequencies=d, rngs=rngs)
        self.offset = ScalarEmbedding(cfg.time_dim, frequencies=cfg.time_dim, rngs=rngs) if cfg.offset else None
        self.blocks = stack(lambda r: Block(cfg, rngs=r), cfg.depth, rngs)
        self.norm_tokens = LayerNorm(d, eps=cfg.norm_eps, rngs=rngs)
        self.norm_out = LayerNorm(d, eps=cfg.norm_eps, rngs=rngs)
        axes = ("condition", None, "embed_out")
        self.final_modulation = Linear(cfg.time_dim, (2, d), axes=axes, init=_ZEROS, rngs=rngs)
        self.patch_out = Linear(d, pixels * cfg.channels, axes=("embed", "patch"), init=_ZEROS, rngs=rngs)

    @property
    def reads(self) -> frozenset[str]:
        """Condition keys that this model reads."""
        return self.config.reads

    def __call__(self, x: Array, t: Array, cond: Condition | None = None) -> Array:
        """Predicts what the process asks of its network.

        Args:
          x: `[B, T, H, W, C]`, any float dtype; the network computes in it.
          t: `[B, T]` or `[B]`, what the network is told of the time (`process.network_time`), 0 to 1000.
          cond: `tokens [B, L, E]`; `concat` and `vector["ofs"]` where the model reads them.  Published models read the
            padding of a prompt too: their pipelines give no `tokens_mask`.

        Returns:
          `[B, T, H, W, C]` in the dtype of `x`.

        Raises:
          ValueError: unread or missing condition keys, sizes that the network does not take.
        """
        cfg = self.config
        cond = self._check(dict(cond or {}))
        b, frames, height, width, _ = x.shape
        grid = cfg.token_grid(frames, height, width)
        clip = TokenLayout.of("full", cfg.partition, grid[0], grid[1] * grid[2], cfg.heads)
        layout = JointLayout.of(clip, cond["tokens"].shape[1])
        e = self._embed_time(as_time(t, b, frames), cond, x.dtype)
        time = jax.nn.silu(jnp.concatenate([e, e.mean(axis=1, keepdims=True)], axis=1))
        time = constrain(time, "batch", None, None)
        ctx = Context(time, layout, layout.key_mask(cond.get("tokens_mask"), b), self._rotary(grid, clip))

        def block(block: Block, tokens: Tokens) -> Tokens:
            text, h = block(tokens, ctx)
            return constrain(text, "batch", None, None), clip.hold(h)

        _, h = run_stack(self.blocks, self._tokens(x, cond, grid, clip), block, cfg.remat)
        rows = clip.rows(self.final_modulation(time[:, :-1]), h)
        shift, scale = jnp.split(fold(rows, 2), 2, axis=-2)
        normed = modulate(self.norm_out(self.norm_tokens(fold(h, 2))), shift, scale).reshape(h.shape)
        sizes = dict(zip(("pt", "ph", "pw"), cfg.patch))
        return rearrange(clip.leave(self.patch_out(normed)), _PIXELS, h=grid[1], w=grid[2], **sizes)

    def _check(self, cond: dict) -> dict:
        cfg = self.config
        check_condition(cond, cfg.may_read, "CogVideoX", needs=self.reads)
        tokens, vector = cond["tokens"], set(cond.get("vector", {}))
        if tokens.ndim != 3:
            raise ValueError(f"condition: tokens have shape {tokens.shape}, CogVideoX reads one prompt a clip")
        if tokens.shape[1] > cfg.text_length:
            raise ValueError(f"condition: {tokens.shape[1]} text tokens, CogVideoX reads {cfg.text_length} at most")
        if cfg.offset and vector != {"ofs"}:
            raise ValueError(f"condition: CogVideoX reads vector entry ofs (it has: {', '.join(sorted(vector))})")
        return cond

    def _embed_time(self, t: Array, cond: Condition, dtype) -> Array:
        """`[B, T', M]`: time of each frame (mean over a patch's frames) and offset."""
        e = self.time(t, dtype)
        e = e.reshape(e.shape[0], -1, self.config.patch[0], e.shape[-1]).mean(axis=2)
        return e if self.offset is None else e + self.offset(cond["vector"]["ofs"], dtype)[:, None]

    def _tokens(self, x: Array, cond: Condition, grid: Grid, layout: TokenLayout) -> Tokens:
        """Prompt and clip as the first block takes them."""
        if self.config.concat_channels:
            x = jnp.concatenate([x, cond["concat"].astype(x.dtype)], axis=-1)
        sizes = dict(zip(("pt", "ph", "pw"), self.config.patch))
        patches = layout.enter(rearrange(x, _PATCHES, **sizes))
        text, clip = self.text_in(cond["tokens"].astype(x.dtype)), self.patch_in(patches)
        if self.positions is not None and grid == self.config.sample_grid:
            table, length = self.positions[...].astype(x.dtype), self.config.text_length
            places = table[length:].reshape(grid[0], grid[1] * grid[2], -1)
            text, clip = text + table[: text.shape[1]], clip + layout.pad(places)
        elif self.config.positions != "rope":  # clips of other lengths have no learned places
            clip = clip + layout.pad(self._sincos(grid, x.dtype))
        return constrain(text, "batch", None, None), layout.hold(clip)

    def _sincos(self, grid: Grid, dtype) -> Array:
        """`[T, S, D]`: a quarter of the channels tells the time, three eighths each the place across and up."""
        t, h, w = grid
        cfg, d = self.config, self.config.dim
        scales, shares = (cfg.time_scale, cfg.space_scale, cfg.space_scale), (d // 4, d // 8 * 3, d // 8 * 3)
        # Joined in the program: the whole table would be a constant of as many bytes as the tokens.
        each = [
            jnp.asarray(sincos_table_at([np.arange(n) / scale], [share]), dtype)
            for n, scale, share in zip((t, w, h), scales, shares)
        ]
        time, across, up = each[0][:, None, None], each[1][None, None], each[2][None, :, None]
        parts = [jnp.broadcast_to(part, (t, h, w, part.shape[-1])) for part in (time, across, up)]
        return jnp.concatenate(parts, axis=-1).reshape(t, h * w, d)

    def _rotary(self, grid: Grid, layout: TokenLayout) -> Array | None:
        if self.config.positions == "sincos":
            return None
        pairs = self.config.head_dim // 16
        points = [np.arange(n) for n in grid] if self.config.patch[0] > 1 else stretched(grid, self.config.sample_grid)
        table = jnp.asarray(rotary_table_at(points, (2 * pairs, 3 * pairs, 3 * pairs)))
        return layout.pad_space(table.reshape(grid[0], -1, *table.shape[1:]), -3)


def stretched(grid: Grid, full: Grid) -> list[np.ndarray]:
    """Positions of a grid that is laid over the middle of a full one, as large as fits (version 1.0)."""
    (frames, h, w), (_, full_h, full_w) = grid, full
    if h / w > full_h / full_w:
        high, wide = full_h, round(full_h / h * w)
    else:
        high, wide = round(full_w / w * h), full_w
    points = [np.arange(frames)]
    for count, size, whole in ((h, high, full_h), (w, wide, full_w)):
        begin = round((whole - size) / 2)
        points.append(np.linspace(begin, (begin + size) * (count - 1) / count, count))
    return points
