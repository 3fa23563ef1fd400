"""Key map of the UNet's trunk, whatever its temporal unit: diffusers' names of every part.

Published levels, like ours, are numbered from the finest on the way down and from the coarsest on the way up; what a
layer here holds together is there one entry in each of several lists (`resnets`, `attentions`, `motion_modules` ...).
"""

from vdm_jax.interop.files.keymap import LINEAR, Buffer, Rule, as_conv, conv, linear, norm, under
from vdm_jax.models.unet.config import UNetConfig
from vdm_jax.models.unet.place import Place
from vdm_jax.models.unet.temporal import position_table


def block(text: bool) -> list[Rule]:
    """A transformer block; its second attention reads the text or, again, the tokens."""
    rules = [
        *norm("norm1", "norm1"),
        *(rule for part, name in enumerate("qkv") for rule in _projection(f"attn1.to_{name}", "attention.qkv", part)),
        *linear("attn1.to_out.0", "attention.out"),
        *norm("norm2", "norm2"),
        *linear("attn2.to_out.0", "second.out"),
        *norm("norm3", "norm3"),
        *mlp("ff", "mlp"),
    ]
    if not text:
        return rules + [
            r for part, name in enumerate("qkv") for r in _projection(f"attn2.to_{name}", "second.qkv", part)
        ]
    rules += linear("attn2.to_q", "second.q", bias=False)
    return [*rules, *_projection("attn2.to_k", "second.kv", 0), *_projection("attn2.to_v", "second.kv", 1)]


def _projection(theirs: str, ours: str, part: int) -> list[Rule]:
    return linear(theirs, ours, bias=False, part=part)


def mlp(theirs: str, ours: str) -> list[Rule]:
    """A gated MLP."""
    return [*linear(f"{theirs}.net.0.proj", f"{ours}.up"), *linear(f"{theirs}.net.2", f"{ours}.down")]


def vector(theirs: str, ours: str) -> list[Rule]:
    """Two linear layers that embed something."""
    return [*linear(f"{theirs}.linear_1", f"{ours}.hidden"), *linear(f"{theirs}.linear_2", f"{ours}.out")]


def res_block(in_channels: int, place: Place) -> list[Rule]:
    """A residual block, over frames or over time."""
    rules = [
        *norm("norm1", "norm1"),
        *conv("conv1", "conv1"),
        *linear("time_emb_proj", "time"),
        *norm("norm2", "norm2"),
        *conv("conv2", "conv2"),
    ]
    return rules + (conv("conv_shortcut", "shortcut") if in_channels != place.channels else [])


def temporal_transformer() -> list[Rule]:
    """A transformer over the frames of each pixel."""
    return [
        *norm("norm", "norm"),
        *linear("proj_in", "enter"),
        *under("transformer_blocks.{i}", "blocks", block(text=False)),
        *linear("proj_out", "leave"),
    ]


def spatial_transformer(cfg: UNetConfig) -> list[Rule]:
    """A transformer over the pixels of each frame, with blocks over frames between if the unit mixes."""
    return [
        *norm("norm", "norm"),
        *_end("proj_in", "enter", cfg.projection),
        *under("transformer_blocks.{i}", "units.space", block(text=True)),
        *(_mixed_transformer() if cfg.temporal == "mixed" else []),
        *_end("proj_out", "leave", cfg.projection),
    ]


def _end(theirs: str, ours: str, projection: str) -> list[Rule]:
    layout = LINEAR if projection == "linear" else as_conv(LINEAR, 2)
    return [Rule(f"{theirs}.weight", f"{ours}.kernel", layout), Rule(f"{theirs}.bias", f"{ours}.bias")]


def _mixed_transformer() -> list[Rule]:
    frames = [*norm("norm_in", "norm_in"), *mlp("ff_in", "mlp_in")]
    frames += [Rule(r.theirs, f"block.{r.ours}", r.layout, r.part) for r in block(text=True)]
    return [
        *under("temporal_transformer_blocks.{i}", "units.frames", frames),
        *vector("time_pos_embed", "mix.positions"),
        Rule("time_mixer.mix_factor", "mix.mix"),
    ]


def _temporal_convs() -> list[Rule]:
    rules = []
    for index in range(4):
        last = 2 if index == 0 else 3  # the first has no dropout between
        rules += norm(f"conv{index + 1}.0", f"norms.{index}")
        rules += conv(f"conv{index + 1}.{last}", f"convs.{index}")
    return rules


def layer(cfg: UNetConfig, index: int, in_channels: int, place: Place) -> list[Rule]:
    """Layer `index` of a level, under the names of the level."""
    ours, res = f"layers.{index}", f"resnets.{index}"
    spatial = f"{res}.spatial_res_block" if cfg.temporal == "mixed" else res
    rules = under(spatial, f"{ours}.res", res_block(in_channels, place))
    if cfg.temporal == "mixed":
        over_time = under("temporal_res_block", "block", res_block(place.channels, place))
        rules += under(res, f"{ours}.res_time", [*over_time, Rule("time_mixer.mix_factor", "mix")])
    if cfg.temporal == "convolution":
        rules += under(f"temp_convs.{index}", f"{ours}.res_time", _temporal_convs())
    if place.depth:
        rules += under(f"attentions.{index}", f"{ours}.attention", spatial_transformer(cfg))
    if cfg.temporal == "convolution" and place.depth:
        rules += under(f"temp_attentions.{index}", f"{ours}.attention_time", temporal_transformer())
    if place.motion_depth:
        rules += under(f"motion_modules.{index}", f"{ours}.attention_time", temporal_transformer())
    return rules


def positions(prefix: str, depth: int, channels: int, max_frames: int) -> list[Buffer]:
    """The constants of a motion module."""
    names = [f"{prefix}.transformer_blocks.{i}.pos_embed.pe" for i in range(depth)]
    return [Buffer(name, lambda: position_table(max_frames, channels)[None]) for name in names]


def level_rules(cfg: UNetConfig, layers: list[tuple[int, Place]]) -> list[Rule]:
    """All layers of a level."""
    return [rule for index, at in enumerate(layers) for rule in layer(cfg, index, *at)]


def half(cfg: UNetConfig) -> list[Rule]:
    """The descending half, the middle and what is in front of them."""
    rules = [*conv("conv_in", "first"), *vector("time_embedding", "time")]
    if cfg.scalars:
        rules += vector("add_embedding", "scalars")
    if cfg.temporal == "convolution":
        rules += under("transformer_in", "entry", temporal_transformer())
    for level in range(len(cfg.widths)):
        rules += under(f"down_blocks.{level}", f"down.{level}", level_rules(cfg, cfg.down(level)))
        if level < len(cfg.widths) - 1:
            rules += conv(f"down_blocks.{level}.downsamplers.0.conv", f"down.{level}.resize.conv")
    middle = level_rules(cfg, cfg.mid())
    return rules + [Rule(f"mid_block.{r.theirs}", r.ours.replace("layers", "mid", 1), r.layout, r.part) for r in middle]


def trunk(cfg: UNetConfig) -> list[Rule]:
    """The whole of it."""
    rules, levels = half(cfg), len(cfg.widths)
    for index in range(levels):
        rules += under(f"up_blocks.{index}", f"up.{index}", level_rules(cfg, cfg.up(levels - 1 - index)))
        if index < levels - 1:
            rules += conv(f"up_blocks.{index}.upsamplers.0.conv", f"up.{index}.resize.conv")
    return [*rules, *norm("conv_norm_out", "last_norm"), *conv("conv_out", "last")]
