"""The project's own DiT and its text encoder, out of here in two ways.

as a published class   where the options used make it one: `WanTransformer3DModel` (full attention) or
                       `LatteTransformer3DModel` (factorised); the same function, under the names of that class
as themselves          `DIT` and `TEXT`, networks of `torch_modules/`, whose names are these
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from vdm_jax.config import build, to_dict
from vdm_jax.interop.families.family import Family, Options, own_family
from vdm_jax.interop.families.latte import LATTE
from vdm_jax.interop.families.wan import WAN
from vdm_jax.interop.files.keymap import KeyMap, Rule, linear, norm, under
from vdm_jax.models.dit import DiT, DiTConfig
from vdm_jax.models.latte import LatteConfig
from vdm_jax.models.text import TextConfig, TextEncoder
from vdm_jax.models.wan import WanConfig

# Option -> what it must be.
_OF_BOTH = {
    "causal": False,
    "adaln": "single",
    "mlp": "gelu",
    "text_projection": "mlp",
    "pooled_text": False,
    "classes": 0,
    "scalars": (),
    "known_merge": False,
    "prefix": 0,
    "cyclic": False,
    "temporal": "block",
}
_ONLY_HERE = ("known_merge", "prefix", "cyclic", "temporal")  # options that `torch_modules.dit` does not know
_OF_WAN = _OF_BOTH | {"attention": "full", "rope": True, "positions": "none", "qk_norm": "all"}
_OF_LATTE = _OF_BOTH | {
    "attention": "factorised",
    "rope": False,
    "positions": "apart",
    "qk_norm": "none",
    "cross_norm": False,
    "concat_channels": 0,
    "known_channel": False,
}
_LONGEST = 127  # pixels of a latent that Latte measures positions by without shrinking them


def published_form(config: DiTConfig) -> tuple[Family, WanConfig | LatteConfig]:
    """The published class that this DiT is.

    Raises:
      ValueError: it is none; names the options in the way and what they would have to be.
    """
    if config.attention == "full":
        _check(config, _OF_WAN, [], WAN)
        return WAN, WanConfig(
            channels=config.channels,
            concat_channels=config.in_channels - config.channels,
            patch=config.patch,
            dim=config.dim,
            depth=config.depth,
            heads=config.heads,
            mlp_dim=config.hidden,
            text_dim=config.text_dim,
            cross_norm=config.cross_norm,
        )
    frames, size, width = config.grid
    one, patch, across = config.patch
    others = [
        (one == 1 and patch == across, f"patch={config.patch} (it has square ones of one frame)"),
        (config.hidden == 4 * config.dim, f"mlp_dim={config.mlp_dim} (it has 4 dim)"),
        (
            size == width and size * patch <= _LONGEST,
            f"grid={config.grid} (it has a square of up to {_LONGEST} pixels)",
        ),
    ]
    _check(config, _OF_LATTE, [text for holds, text in others if not holds], LATTE)
    return LATTE, LatteConfig(
        channels=config.channels,
        learned_variance=False,
        patch=patch,
        dim=config.dim,
        depth=config.depth,
        heads=config.heads,
        text_dim=config.text_dim,
        frames=frames,
        sample_size=size * patch,
    )


def _check(config: DiTConfig, wanted: Mapping[str, Any], others: list[str], family: Family) -> None:
    found = {name: getattr(config, name) for name in wanted}
    faults = [f"{name}={found[name]!r} (it has {wanted[name]!r})" for name in wanted if found[name] != wanted[name]]
    faults += ["text_dim=0 (it reads text)"] if not config.text_dim else []
    if faults + others:
        raise ValueError(f"dit: is no {family.published}: {', '.join(faults + others)}")


def published_params(family: Family, params: Mapping[str, Any]) -> dict[str, Any]:
    """Weights of a DiT under the names of the published network here; the arrays are the same."""
    flat = flatten_dict(dict(params), sep=".")
    if family is WAN:
        renamed = (("units.block.", "blocks."), ("text_in.hidden.", "text_hidden."), ("text_in.out.", "text_out."))
        for ours, theirs in renamed:
            flat = {theirs + name.removeprefix(ours) if name.startswith(ours) else name: x for name, x in flat.items()}
    return unflatten_dict(flat, sep=".")


def _attention(theirs: str, ours: str, qk_norm: str, *, of_itself: bool = True) -> list[Rule]:
    """Projections of queries, keys and values, fused in ours."""
    queries = linear("q", "qkv", part=0) if of_itself else linear("q", "q")
    fused, first = ("qkv", 1) if of_itself else ("kv", 0)
    rules = [*queries, *linear("k", fused, part=first), *linear("v", fused, part=first + 1), *linear("out", "out")]
    if qk_norm != "none":
        rules += [rule for name in "qk" for rule in norm(f"norm_{name}", f"norm.{name}", bias=False)]
    return under(theirs, ours, rules)


def _mlp() -> list[Rule]:
    return [*linear("mlp.up", "mlp.up"), *linear("mlp.down", "mlp.down")]


def _block(config: DiTConfig, over: str) -> list[Rule]:
    rules = [*_attention("attention", "attention", config.qk_norm), *_mlp()]
    if config.text_dim and over != "time":
        rules += _attention("cross", "cross", config.qk_norm, of_itself=False)
        rules += norm("cross_norm", "cross_norm") if config.cross_norm else []
    single = config.adaln == "single"
    return rules + ([Rule("modulation", "modulation")] if single else linear("modulation", "modulation"))


def _two_layers(name: str) -> list[Rule]:
    return [*linear(f"{name}.hidden", f"{name}.hidden"), *linear(f"{name}.out", f"{name}.out")]


def _keymap(config: DiTConfig) -> KeyMap:
    if other := [f"{name}={getattr(config, name)!r}" for name in _ONLY_HERE if getattr(config, name) != _OF_BOTH[name]]:
        raise ValueError(f"dit: {', '.join(other)} has no PyTorch module; only runs without it are exported")
    single = config.adaln == "single"
    rules = [*linear("patch_in", "patch_in"), *_two_layers("time"), *linear("patch_out", "patch_out")]
    blocks = ("block",) if config.attention == "full" else ("spatial", "temporal")
    over = {"block": "full", "spatial": "space", "temporal": "time"}
    for block in blocks:
        rules += under(f"units.{{i}}.{block}", f"units.{block}", _block(config, over[block]))
    if single:
        rules += [*linear("modulation", "modulation"), Rule("final_modulation", "final_modulation")]
    else:
        rules += linear("final_modulation", "final_modulation")
    if config.text_dim:
        rules += _two_layers("text_in") if config.text_projection == "mlp" else linear("text_in", "text_in")
    if config.pooled_text:
        rules += linear("text_pool", "text_pool")
    if config.classes:
        rules.append(Rule("label.weight", "label.table"))
    for name in config.scalars:
        rules += [*_two_layers(f"scalars.{name}"), Rule(f"scalars.{name}.null", f"scalars.{name}.null")]
    if config.positions == "learned":
        rules += [Rule("frame_table", "frame_table"), Rule("patch_table", "patch_table")]
    return KeyMap(rules)


@dataclasses.dataclass(frozen=True)
class TrainedText:
    """A text encoder that was trained with a backbone, and how many tokens its tokenizer knows."""

    config: TextConfig
    vocab_size: int


def _text(trained: TrainedText, rngs: nnx.Rngs) -> TextEncoder:
    return TextEncoder(trained.config, trained.vocab_size, rngs)


def _read_text(options: Options) -> TrainedText:
    names = [field.name for field in dataclasses.fields(TextConfig)]
    config = build(TextConfig, {name: options.take(name) for name in names}, options.published)
    return TrainedText(config, options.take("tokens"))


def _write_text(trained: TrainedText) -> dict[str, Any]:
    return to_dict(trained.config) | {"tokens": trained.vocab_size}


def _text_keymap(trained: TrainedText) -> KeyMap:
    block = [*norm("attention_norm", "attention_norm"), *norm("mlp_norm", "mlp_norm"), *_mlp()]
    block += _attention("attention", "attention", "none")
    rules = [Rule("tokens.weight", "tokens"), Rule("positions", "positions"), *norm("norm", "norm")]
    return KeyMap([*rules, *under("blocks.{i}", "blocks", block)])


DIT = own_family(DiTConfig, DiT, _keymap)
TEXT = Family("TextEncoder", _text, _read_text, _write_text, _text_keymap)
