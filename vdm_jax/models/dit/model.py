"""The spatio-temporal DiT: clip in, prediction out, every frame at its own time.

  x [B, T, H, W, C] -> tokens [B, T', S, D] -> units -> tokens -> [B, T, H, W, C]

The time of a frame reaches its tokens through adaLN only (`modulation [B, T', 6, D]`), so a network trained with
one time a clip runs with one time a frame and the other way round (FVDM, 2410.03160).

Where clips are packed (`segments`, see `types.py`), tokens see their own clip only, positions in time start again with
each clip, and conditions `[B, K, ...]` reach the frames of their clip; the output is that of each clip by itself.

A network whose frames see no later ones continues a video without computing the given frames again (`prefix.Memory`):

    memory = network.remember(given, told, cond, network.memory(B, H, W, frames=16))
    output = network(noisy, t, cond, memory)                       # at every step, of the frames that follow only
"""

import functools

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from vdm_jax.attention.layout import resize
from vdm_jax.diffusion.packing import by_frame, places
from vdm_jax.models.dit.blocks import Context, Unit
from vdm_jax.models.dit.config import DiTConfig
from vdm_jax.models.dit.layout import TokenLayout
from vdm_jax.models.dit.prefix import Memory
from vdm_jax.nn.embeddings import LabelEmbedding, ScalarEmbedding, frame_table, sincos_table, time_table
from vdm_jax.nn.linear import Linear, param
from vdm_jax.nn.norms import layer_norm, modulate
from vdm_jax.nn.projection import TextProjection
from vdm_jax.nn.rotary import rotary_table
from vdm_jax.nn.stack import run_stack_with, stack
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
        if cfg.known_merge:
            self.known_in = Linear(d + 1, d, axes=("condition", "embed_out"), init=_same, rngs=rngs)
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

    @property
    def may_read(self) -> frozenset[str]:
        """Those, and the ones that it reads where they are given."""
        return self.config.may_read

    @property
    def table(self) -> int | None:
        """Frames that a continued video can have; None is any number."""
        cfg = self.config
        return cfg.grid[0] if cfg.positions in ("learned", "apart") and not cfg.cyclic else None

    def __call__(self, x: Array, t: Array, cond: Condition | None = None, memory: Memory | None = None) -> Array:
        """Predicts what the process asks of its network.

        Args:
          x: `[B, T, H, W, C]`, any float dtype; the network computes in it.
          t: `[B, T]` or `[B]`, what the network is told of the time (`process.network_time`).
          cond: see `types.CONDITION_KEYS`; must hold every key the model reads.  Tokens per frame are `[B, T', L, D]`,
            one row for each of the T' frames of tokens.  With `segments`, whose clips are whole patches of frames,
            `tokens [B, K, L, D]`, `tokens_mask [B, K, L]` and the entries of `vector [B, K]`.
          memory: frames that are given before those of `x`, none of which is given then (so there is no `known`).

        Returns:
          `[B, T, H, W, C]` in the dtype of `x`.

        Raises:
          ValueError: unread or missing condition keys, sizes that the patch does not divide, a memory of other clips.
        """
        tokens, ctx, e, _ = self._run(x, t, cond, memory, keep=False)
        single, layout = self.config.adaln == "single", ctx.layout
        rows = self.final_modulation[...].astype(x.dtype) + e[:, :, None] if single else self.final_modulation(ctx.time)
        rows = layout.rows(rows, tokens)
        shift, scale = jnp.split(rows, 2, axis=2)  # [B, T', 1, D]
        patches = layout.leave(self.patch_out(modulate(layer_norm(tokens), shift, scale)))
        sizes = dict(zip(("pt", "ph", "pw"), self.config.patch))
        return rearrange(patches, _PIXELS, h=x.shape[2] // sizes["ph"], w=x.shape[3] // sizes["pw"], **sizes)

    def memory(self, batch: int, height: int, width: int, frames: int, dtype=jnp.float32) -> Memory:
        """Room for the newest `frames` frames of clips of this size; see `prefix.Memory` for what is refused."""
        _, h, w = self.config.token_grid(self.config.patch[0], height, width)
        return Memory.empty(self.config, batch, h * w, frames, dtype)

    def remember(self, x: Array, t: Array, cond: Condition | None, memory: Memory) -> Memory:
        """The memory with frames `[B, m, H, W, C]` behind those that it holds; arguments and errors as of a call."""
        return self._run(x, t, cond, memory, keep=True)[3]

    def _run(self, x: Array, t: Array, cond: Condition | None, memory: Memory | None, keep: bool):
        """Tokens behind the last unit, with what the units had, the embedded time and the memory."""
        cfg, cond = self.config, dict(cond or {})
        if memory is not None and "known" in cond:
            raise ValueError("condition: known frames are those of the memory, there is no 'known' beside one")
        b, frames, height, width, _ = x.shape
        if memory is not None and "known" in self.reads:
            cond["known"] = jnp.full((b, frames), keep)
        check_condition(cond, self.may_read, "DiT", needs=self.reads)
        grid = cfg.token_grid(frames, height, width)
        if memory is not None:
            memory.check(b, cfg.heads, grid[1] * grid[2], grid[0] if keep else 1)
        segments = cond["segments"][:, :: cfg.patch[0]] if "segments" in cond else None
        place = self._places(cond, grid[0], segments, memory)
        text, text_mask = self._text(cond, grid[0], segments, x.dtype)
        e = self._embed_time(as_time(t, b, frames), segments, cond, text, text_mask, x.dtype)
        layout = TokenLayout.of(cfg.attention, cfg.partition, grid[0], grid[1] * grid[2], cfg.heads)
        if (cfg.prefix or memory is not None) and layout.partition != "local":
            raise ValueError(f"partition: {layout.partition!r}; a prefix is read on meshes without a context axis only")
        tokens = self._tokens(x, cond, grid, place, layout)
        time, given = jax.nn.silu(e), self._given(cond)
        ctx = Context(
            time=time,
            modulation=self.modulation(time) if cfg.adaln == "single" else None,
            text=text,
            text_mask=text_mask,
            rotary=self._rotary(grid, place if segments is not None else None, layout, memory),
            layout=layout,
            segments=self._together(cond, grid[0], segments),
            given=given,
            merge=functools.partial(self._merge, given) if cfg.known_merge else None,
            keep=keep,
        )

        def unit(block: Unit, carry: tuple, mine: Memory | None) -> tuple[tuple, Memory | None]:
            h, entrance = carry  # of the first unit; there is none for those behind it
            h, mine = block.remembering(h, ctx, *entrance, mine)
            return (layout.hold(h), jax.tree.map(jnp.zeros_like, entrance)), mine

        in_time = self._in_time(grid, segments, place, x.dtype) if cfg.positions == "apart" else None
        entrance = (in_time, jnp.bool_(True) if cfg.known_merge else None)
        (tokens, _), memory = run_stack_with(self.units, (tokens, entrance), memory, unit, cfg.remat)
        return tokens, ctx, e, memory

    def _given(self, cond: Condition) -> Array | None:
        """`[B, T']` bool, frames that are given, for the models that look at whole frames."""
        if not (self.config.prefix or self.config.known_merge):
            return None
        if cond["known"].ndim != 2:
            raise ValueError(f"known: shape {cond['known'].shape}; this model is told of whole frames [B, T]")
        return cond["known"][:, :: self.config.patch[0]]

    def _merge(self, given: Array, tokens: Array) -> Array:
        """Ca2-VDM's merge of the flag into tokens `[B, T', S, D]`."""
        flags = resize(given[..., None, None].astype(tokens.dtype), 1, tokens.shape[1])
        flags = jnp.broadcast_to(flags, (*tokens.shape[:-1], 1))
        return self.known_in(jnp.concatenate([tokens, flags], axis=-1))

    def _places(self, cond: Condition, frames: int, segments: Array | None, memory: Memory | None) -> Array | None:
        """Which row of a table of places in time each frame has, `[B | 1, T']`; None for 0 to T' - 1."""
        if segments is not None:
            return places(segments)
        start = memory.written if memory is not None else cond.get("start", 0 if self.config.cyclic else None)
        if start is None:
            return None
        number = jnp.reshape(start, (-1, 1)) + jnp.arange(frames)
        return number % self.config.grid[0] if self.config.cyclic else number

    def _together(self, cond: Condition, frames: int, segments: Array | None) -> Array | None:
        """`[B, T']`, frames that see each other in time: those of a packed clip, or those before the padding."""
        if "length" not in cond or self.config.causal:  # then nothing sees what is behind it anyway
            return segments
        if segments is not None:
            raise ValueError("condition: packed clips have no 'length'")
        return (jnp.arange(frames) * self.config.patch[0] >= cond["length"][:, None]).astype(jnp.int32)

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
            table = self.frame_table[...]
            return (table[:t] if place is None else table[place]) + patches
        if self.config.positions == "sincos":
            return _at(jnp.asarray(sincos_table(grid, self.config.dim)).reshape(t, h * w, -1), place)
        if self.config.positions == "apart":
            in_frame = jnp.asarray(frame_table((h, w), self.config.grid[1:], self.config.dim))
            return jnp.broadcast_to(in_frame, (t, *in_frame.shape))
        return jnp.zeros(())

    def _in_time(self, grid: tuple[int, int, int], segments: Array | None, place: Array | None, dtype) -> Array:
        """`[T', 1, D]`, or `[B, T', 1, D]`; packed clips of one frame have no place in time."""
        if place is not None and segments is None:
            return jnp.asarray(time_table(self.config.grid[0], self.config.dim), dtype)[place]
        table = jnp.asarray(time_table(grid[0], self.config.dim), dtype)
        if place is None:
            return table
        several = (segments[:, :, None] == segments[:, None]).sum(axis=2) > 1
        return table[place] * several[..., None, None]

    def _rotary(self, grid, place: Array | None, layout: TokenLayout, memory: Memory | None) -> dict[str, Array | None]:
        if not self.config.rope:
            return {"full": None, "space": None, "time": None}
        sizes = {"full": grid, "space": grid[1:], "time": grid[:1]}
        tables = {over: jnp.asarray(rotary_table(n, self.config.head_dim)) for over, n in sizes.items()}
        full = tables["full"].reshape(grid[0], -1, *tables["full"].shape[1:])  # [T', S, 2, c / 2]
        full, time = layout.pad_space(_at(full, place), -3), _at(tables["time"], place)
        if memory is not None:  # by place in the queue
            time = jnp.asarray(rotary_table((memory.capacity + grid[0],), self.config.head_dim))
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


def _same(key: Array, shape: tuple[int, int], dtype=jnp.float32) -> Array:
    """`[D + 1, D]`: the first D channels as they are, nothing of the last one."""
    return jnp.eye(*shape, dtype=dtype)


def _text_in(cfg: DiTConfig, rngs: nnx.Rngs) -> nnx.Module | None:
    if not cfg.text_dim:
        return None
    if cfg.text_projection == "mlp":
        return TextProjection(cfg.text_dim, cfg.dim, rngs=rngs)
    return Linear(cfg.text_dim, cfg.dim, axes=("text", "embed"), rngs=rngs)


def _at(frames: Array, place: Array | None) -> Array:
    """Rows of a table `[T', ...]` as they are, or for packed clips at the frames' own places: `[B, T', ...]`."""
    return frames if place is None else frames[place]
