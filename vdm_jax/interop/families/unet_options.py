"""Options of published UNets that several classes share.

`attention_head_dim` and `num_attention_heads` mean different things in different classes, often not what they say:
each class's own file says which.
"""

from typing import Any

from vdm_jax.interop.families.family import Options

WIDTHS = (320, 640, 1280, 1280)
FIXED = {"act_fn": "silu", "downsample_padding": 1, "mid_block_scale_factor": 1, "time_cond_proj_dim": None}


def each(options: Options, name: str, default: Any, levels: int) -> tuple[int, ...]:
    """A number for each level: one for all, or a list."""
    value = options.take(name, default)
    if isinstance(value, int):
        return (value,) * levels
    if len(value) != levels or not all(isinstance(entry, int) for entry in value):
        raise ValueError(f"{options.published}: {name}={value!r} is not supported (only {levels} numbers, one a level)")
    return tuple(value)


def shortest(values: tuple[int, ...]) -> int | list[int]:
    """The inverse of `each`."""
    return values[0] if len(set(values)) == 1 else list(values)


def same(options: Options, name: str, default: Any) -> int:
    """A number that must be the same at each level, where a list is allowed."""
    value = options.take(name, default)
    values = {value} if isinstance(value, int) else set(value)
    if len(values) != 1:
        raise ValueError(f"{options.published}: {name}={value!r} is not supported (only one number)")
    return values.pop()


def attention_levels(options: Options, kind: str, ascending: bool = True) -> tuple[bool, ...]:
    """Which levels have attention.

    Args:
      options: of the class.
      kind: the end of its blocks' names.
      ascending: whether the class has an ascending half, which must mirror the other.
    """
    down = _types(options, "Down", kind, (True, True, True, False))
    if ascending and _types(options, "Up", kind, (False, True, True, True)) != down[::-1]:
        raise ValueError(f"{options.published}: up_block_types do not mirror down_block_types, which is not supported")
    return down


def _types(options: Options, side: str, kind: str, default: tuple[bool, ...]) -> tuple[bool, ...]:
    name, names = f"{side.lower()}_block_types", {f"CrossAttn{side}Block{kind}": True, f"{side}Block{kind}": False}
    found = options.take(name, None)
    if found is None:
        return default
    if odd := [entry for entry in found if entry not in names]:
        raise ValueError(f"{options.published}: {name}: {odd[0]!r} is not supported (only {' or '.join(names)})")
    return tuple(names[entry] for entry in found)


def block_types(attention: tuple[bool, ...], kind: str, ascending: bool = True) -> dict[str, list[str]]:
    """The inverse of `attention_levels`."""
    down = [f"{'CrossAttn' if has else ''}DownBlock{kind}" for has in attention]
    up = [f"{'CrossAttn' if has else ''}UpBlock{kind}" for has in attention[::-1]]
    return {"down_block_types": down} | ({"up_block_types": up} if ascending else {})


def trunk(
    options: Options, kind: str, text_dim: int, channels: tuple[int, int] = (4, 4), ascending: bool = True
) -> dict[str, Any]:
    """The fields of `UNetConfig` that all classes give under the same names.

    Args:
      options: of the class.
      kind: the end of its blocks' names.
      text_dim, channels: what the class has by default; channels in and out.
      ascending: whether the class has an ascending half; one without has as many channels out as in.
    """
    widths = tuple(options.take("block_out_channels", WIDTHS))
    attention = attention_levels(options, kind, ascending)
    inputs = options.take("in_channels", channels[0])
    outputs = options.take("out_channels", channels[1]) if ascending else inputs
    if len(attention) != len(widths) or inputs < outputs:
        raise ValueError(
            f"{options.published}: {len(widths)} block_out_channels, {len(attention)} down_block_types,"
            f" in_channels={inputs} and out_channels={outputs} do not make a network"
        )
    options.ignore("sample_size")
    return {
        "channels": outputs,
        "concat_channels": inputs - outputs,
        "widths": widths,
        "layers": each(options, "layers_per_block", 2, len(widths)),
        "text_dim": same(options, "cross_attention_dim", text_dim),
    } | {"attention": attention}


def depths(attention: tuple[bool, ...], depth: tuple[int, ...]) -> tuple[int, ...]:
    """Blocks of each level's transformers, 0 where it has none."""
    return tuple(d if has else 0 for has, d in zip(attention, depth))


def norms(options: Options) -> dict[str, Any]:
    """The options of norms, and those that must be what they always are."""
    for name, value in FIXED.items():
        options.only(name, value)
    return {"groups": options.take("norm_num_groups", 32), "eps": options.take("norm_eps", 1e-5)}


def written(config: Any, kind: str) -> dict[str, Any]:
    """The inverse of `trunk`; `config` is a `UNetConfig`."""
    return {
        "block_out_channels": list(config.widths),
        "cross_attention_dim": config.text_dim,
        "in_channels": config.in_channels,
        "out_channels": config.channels,
        "layers_per_block": shortest(config.layers),
        **block_types(tuple(d > 0 for d in config.depth), kind),
    }
