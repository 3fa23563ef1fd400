"""The spatio-temporal DiT: clip in, prediction out, every frame at its own time.

  x [B, T, H, W, C] -> tokens [B, T', S, D] -> units -> tokens -> [B, T, H, W, C]

The time of a frame reaches its tokens through adaLN only (`modulation [B, T', 6, D]`), so a network trained with
one time a clip runs with one time a frame and the other way round (FVDM, 2410.03160).

Where clips are packed (`segments`, see `types.py`), tokens see their own clip only, positions in time start again with
each clip, and conditions `[B, K, ...]` reach the frames of their clip; the output is that of each clip by itself.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from vdm_jax.diffusion.packing import by_frame, places
from vdm_jax.models.dit.blocks import Context, Unit
from vdm_jax.models.dit.config import DiTConfig
from vdm_jax.models.dit.layout import TokenLayout
from vdm_jax.nn.embeddings import LabelEmbedding, ScalarEmbedding, frame_table, sincos_table, time_table
from vdm_jax.nn.linear import Linear, param
from vdm_jax.nn.norms import layer_norm, modulate
from vdm_jax.nn.projection import TextProjection
from vdm_jax.nn.rotary import rotary_table
from vdm_jax.nn.stack import run_stack, stack
from vdm_jax.sharding.rules import constrain
from vdm_jax.types import Condition, as_time, check_condition

Array = jax.Array
_ZEROS = jax.nn.initializers.zeros
_NORMAL = jax.nn.initializers.normal(0.02)
_PATCHES = "b (t pt) (h ph) (w pw) c -> b t (h w) (pt ph pw c)"
_PIXELS = "b t (h w) (pt ph pw c) -> b (t pt) (h ph) (w pw) c"


class DiT(nnx.Module):
    """See `DiTConfig` for the options.

    Args:
      config: the architecture.
      rngs: `params` is used.
    """

    def __init__(self, config: DiTConfig, rngs: nnx.Rngs):
        cfg = self.config = config
        d = cfg.dim
        pixels = cfg.patch[0] * cfg.patch[1] * cfg.patch[2]
        self.patch_in = Linear(pixels * cfg.in_channels, d, axes=("patch", "embed"), rngs=rngs)
        self.time = ScalarEmbedding(d, rngs=rngs)
        self.label = LabelEmbedding(cfg.classes, d, rngs=rngs) if cfg.classes else None
        self.scalars = nnx.Dict({n: ScalarEmbedding(d, nullable=True, rngs=rngs) for n in cfg.scalars})
        self.text_in = _text_in(cfg, rngs)
        self.text_pool = Linear(d, d, axes=("condition", "embed_out"), rngs=rngs) if cfg.pooled_text else None
        if cfg.positions == "learned":
            t, h, w = cfg.grid
            self.frame_table = param(rngs, _NORMAL, (t, 1, d), ("frames", None, "embed"))
            self.patch_table = param(rngs, _NORMAL, (h, w, d), ("height", "width", "embed"))
        self.units = stack(lambda r: Unit(cfg, rngs=r), cfg.depth, rngs)
        if cfg.adaln == "single":
            self.modulation = Linear(d, (6, d), axes=("condition", None, "embed_out"), init=_ZEROS, rngs=rngs)
            self.final_modulation = param(rngs, _ZEROS, (2, d), (None, "embed"))
        else:
            self.final_modulation = Linear(d, (2, d), axes=("condition", None, "embed_out"), init=_ZEROS, rngs=rngs)
        self.patch_out = Linear(d, pixels * cfg.channels, axes=("embed", "patch"), init=_ZEROS, rngs=rngs)

    @property
    def reads(self) -> frozenset[str]:
        """Condition keys that this model reads."""
        return self.config.reads

    def __call__(self, x: Array, t: Array, cond: Condition | None = None) -> Array:
        """Predicts what the process asks of its network.

        Args:
          x: `[B, T, H, W, C]`, any float dtype; the network computes in it.
          t: `[B, T]` or `[B]`, what the network is told of the time (`process.network_time`).
          cond: see `types.CONDITION_KEYS`; must hold every key the model reads.  Tokens per frame are `[B, T', L, D]`,
            one row for each of the T' frames of tokens.  With `segments`, whose clips are whole patches of frames,
            `tokens [B, K, L, D]`, `tokens_mask [B, K, L]` and the entries of `vector [B, K]`.

        Returns:
          `[B, T, H, W, C]` in the dtype of `x`.

        Raises:
          ValueError: unread or missing condition keys, sizes that the patch does not divide.
        """
        cfg, cond = self.config, dict(cond or {})
        check_condition(cond, self.config.may_read, "DiT", needs=self.reads)
        b, frames, height, width, _ = x.shape
        grid = cfg.token_grid(frames, height, width)
        segments = cond["segments"][:, :: cfg.patch[0]] if "segments" in cond else None
        place = None if segments is None else places(segments)
        text, text_mask = self._text(cond, grid[0], segments, x.dtype)
        e = self._embed_time(as_time(t, b, frames), segments, cond, text, text_mask, x.dtype)
        layout = TokenLayout.of(cfg.attention, cfg.partition, grid[0], grid[1] * grid[2], cfg.heads)
        tokens = self._tokens(x, cond, grid, place, layout)
        time = jax.nn.silu(e)
        ctx = Context(
            time=time,
            modulation=self.modulation(time) if cfg.adaln == "single" else None,
            text=text,
            text_mask=text_mask,
            rotary=self._rotary(grid, place, layout),
            layout=layout,
            segments=segments,
        )

        def unit(block: Unit, carry: tuple[Array, Array | None]) -> tuple[Array, Array | None]:
            h, in_time = carry  # of the first unit; there is none for those behind it
            return layout.hold(block(h, ctx, in_time)), jax.tree.map(jnp.zeros_like, in_time)

        in_time = self._in_time(grid, segments, place, x.dtype) if cfg.positions == "apart" else None
        tokens, _ = run_stack(self.units, (tokens, in_time), unit, cfg.remat)
        single = cfg.adaln == "single"
        rows = self.final_modulation[...].astype(x.dtype) + e[:, :, None] if single else self.final_modulation(time)
        rows = layout.rows(rows, tokens)
        shift, scale = jnp.split(rows, 2, axis=2)  # [B, T', 1, D]
        patches = layout.leave(self.patch_out(modulate(layer_norm(tokens), shift, scale)))
        sizes = dict(zip(("pt", "ph", "pw"), cfg.patch))
        return rearrange(patches, _PIXELS, h=grid[1], w=grid[2], **sizes)

    def _tokens(self, x: Array, cond: Condition, grid, place: Array | None, layout: TokenLayout) -> Array:
        """Clip, `concat` and `known` to tokens `[B, T', S, D]` with their positions."""
        parts = [x]
        if self.config.concat_channels:
            parts.append(cond["concat"].astype(x.dtype))
        if self.config.known_channel:
            known = cond["known"]
            known = known[..., None, None, None] if known.ndim == 2 else known
            parts.append(jnp.broadcast_to(known.astype(x.dtype), (*x.shape[:-1], 1)))
        sizes = dict(zip(("pt", "ph", "pw"), self.config.patch))
        patches = layout.enter(rearrange(jnp.concatenate(parts, axis=-1), _PATCHES, **sizes))
        return layout.hold(self.patch_in(patches) + layout.pad(self._positions(grid, place)).astype(x.dtype))

    def _positions(self, grid: tuple[int, int, int], place: Array | None) -> Array:
        """What is added to the tokens, `[T', S, D]`, or `[B, T', S, D]` where packed clips begin again at frame 0."""
        t, h, w = grid
        if self.config.positions == "learned":
            patches = self.patch_table[...][:h, :w].reshape(1, h * w, -1)
            return _at(self.frame_table[...][:t], place) + patches
        if self.config.positions == "sincos":
            return _at(jnp.asarray(sincos_table(grid, self.config.dim)).reshape(t, h * w, -1), place)
        if self.config.positions == "apart":
            in_frame = jnp.asarray(frame_table((h, w), self.config.grid[1:], self.config.dim))
            return jnp.broadcast_to(in_frame, (t, *in_frame.shape))
        return jnp.zeros(())

    def _in_time(self, grid: tuple[int, int, int], segments: Array | None, place: Array | None, dtype) -> Array:
        """`[T', 1, D]`, or `[B, T', 1, D]` for packed clips, of which those of one frame have no place in time."""
        table = jnp.asarray(time_table(grid[0], self.config.dim), dtype)
        if place is None:
            return table
        several = (segments[:, :, None] == segments[:, None]).sum(axis=2) > 1
        return table[place] * several[..., None, None]

    def _rotary(self, grid, place: Array | None, layout: TokenLayout) -> dict[str, Array | None]:
        if not self.config.rope:
            return {"full": None, "space": None, "time": None}
        sizes = {"full": grid, "space": grid[1:], "time": grid[:1]}
        tables = {over: jnp.asarray(rotary_table(n, self.config.head_dim)) for over, n in sizes.items()}
        full = tables["full"].reshape(grid[0], -1, *tables["full"].shape[1:])  # [T', S, 2, c / 2]
        full, time = layout.pad_space(_at(full, place), -3), _at(tables["time"], place)
        if place is not None:
            full, time = full[:, None], time[:, None, None]  # the same for all heads, and for all tubes
        return {"full": full, "space": layout.pad_space(tables["space"], 0), "time": time}

    def _text(self, cond: Condition, frames: int, segments, dtype) -> tuple[Array | None, Array | None]:
        if self.text_in is None:
            return None, None
        if segments is not None:
            text, mask = self.text_in(cond["tokens"].astype(dtype)), cond.get("tokens_mask")
            return by_frame(text, segments), None if mask is None else by_frame(mask, segments)
        if cond["tokens"].ndim == 4 and cond["tokens"].shape[1] != frames:
            given = cond["tokens"].shape[1]
            raise ValueError(f"condition: tokens are given for {given} frames, the clip has {frames} frames of tokens")
        return self.text_in(cond["tokens"].astype(dtype)), cond.get("tokens_mask")

    def _embed_time(self, t, segments, cond, text, text_mask, dtype) -> Array:
        """`[B, T', D]`: time of each frame (mean over a patch's frames), vectors, pooled text."""
        e = self.time(t, dtype)
        e = e.reshape(e.shape[0], -1, self.config.patch[0], e.shape[-1]).mean(axis=2)

        def each(rows: Array) -> Array:
            return rows[:, None] if segments is None else by_frame(rows, segments)

        vector = dict(cond.get("vector", {}))
        wanted = ["label", *self.scalars] if self.label is not None else list(self.scalars)
        if missing := [name for name in wanted if name not in vector]:
            raise ValueError(f"condition: DiT needs vector entries {', '.join(missing)} (-1 is unconditional)")
        if self.label is not None:
            e = e + each(self.label(vector.pop("label"), dtype))
        for name, embedding in self.scalars.items():
            e = e + each(embedding(vector.pop(name), dtype))
        if vector:
            raise ValueError(f"condition: DiT does not read vector entries {', '.join(sorted(vector))}")
        if self.text_pool is not None:
            mask = jnp.ones(text.shape[:-1], dtype) if text_mask is None else text_mask.astype(dtype)
            mask = (mask[:, None] if mask.ndim < text.ndim - 1 else mask)[..., None]
            mean = (text * mask).sum(-2) / jnp.maximum(mask.sum(-2), 1)
            pooled = self.text_pool(jax.nn.silu(mean))
            e = e + (pooled if pooled.ndim == 3 else pooled[:, None])
        return constrain(e, "batch", None, None)


def _text_in(cfg: DiTConfig, rngs: nnx.Rngs) -> nnx.Module | None:
    if not cfg.text_dim:
        return None
    if cfg.text_projection == "mlp":
        return TextProjection(cfg.text_dim, cfg.dim, rngs=rngs)
    return Linear(cfg.text_dim, cfg.dim, axes=("text", "embed"), rngs=rngs)


def _at(frames: Array, place: Array | None) -> Array:
    """Rows of a table `[T', ...]` as they are, or for packed clips at the frames' own places: `[B, T', ...]`."""
    return frames if place is None else frames[place]
