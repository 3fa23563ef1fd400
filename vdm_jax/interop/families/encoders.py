"""CLIP, T5 and UMT5 of transformers: `CLIPTextModel`, `CLIPVisionModel`, each also `WithProjection`, `T5EncoderModel`,
`UMT5EncoderModel`.

Files before transformers 5 put `text_model.` or `vision_model.` in front of every name; since then only the classes
with a projection do.  Either is read, and what was read is written back.  T5 has its embedding under two names.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vdm_jax.interop.families.family import Family, Options
from vdm_jax.interop.files.keymap import Buffer, KeyMap, Rule, linear, norm, patches, under
from vdm_jax.models.encoders import T5, CLIPText, CLIPTextConfig, CLIPVision, CLIPVisionConfig, T5Config

# Options that every config of transformers may hold and that change no output.
_OF_ALL = (
    "architectures", "torch_dtype", "dtype", "transformers_version", "use_cache", "return_dict", "output_attentions",
    "output_hidden_states", "torchscript", "use_bfloat16", "pruned_heads", "tie_word_embeddings", "tie_encoder_decoder",
    "chunk_size_feed_forward", "gradient_checkpointing", "problem_type", "id2label", "label2id", "task_specific_params",
    "tokenizer_class", "prefix", "bos_token_id", "pad_token_id", "sep_token_id", "initializer_factor",
    "initializer_range", "dropout", "attention_dropout",
)  # fmt: skip
_ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu_exact", "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu"}
_FEED_FORWARD = {"gated-gelu": "geglu_tanh", "gated-silu": "swiglu", "relu": "relu"}
_TEXT, _VISION = "text_model.", "vision_model."


def _chosen(options: Options, name: str, default: str, allowed: Mapping[str, str]) -> str:
    """Our name of an option's value."""
    value = options.take(name, default)
    if value not in allowed:
        raise ValueError(f"{options.published}: {name}={value!r} is not supported (only {', '.join(allowed)})")
    return allowed[value]


def _named(ours: str, allowed: Mapping[str, str], field: str) -> str:
    """The published name of our value."""
    for name, value in allowed.items():
        if value == ours:
            return name
    raise ValueError(f"{field}: {ours!r} has no published name (only {', '.join(allowed.values())})")


def _whole(options: Options, name: str, default: int) -> int:
    value = options.take(name, default)
    if not isinstance(value, int):
        raise ValueError(f"{options.published}: {name}={value!r} is not supported (only one number)")
    return value


def _tower(options: Options, kind: str, projection: bool, defaults: tuple[int, int, int, int]) -> dict[str, Any]:
    options.ignore(*_OF_ALL)
    options.only("model_type", kind)
    dim, mlp_dim, depth, heads = defaults
    width = options.take("projection_dim", 512)
    return {
        "dim": options.take("hidden_size", dim),
        "mlp_dim": options.take("intermediate_size", mlp_dim),
        "depth": options.take("num_hidden_layers", depth),
        "heads": options.take("num_attention_heads", heads),
        "mlp": _chosen(options, "hidden_act", "quick_gelu", _ACTIVATIONS),
        "eps": options.take("layer_norm_eps", 1e-5),
        "projection": width if projection else 0,
    }


def _write_tower(config: CLIPTextConfig | CLIPVisionConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "hidden_act": _named(config.mlp, _ACTIVATIONS, "mlp"),
        "layer_norm_eps": config.eps,
        **({"projection_dim": config.projection} if config.projection else {}),
    }


def _read_text(options: Options, projection: bool) -> CLIPTextConfig:
    tower = _tower(options, "clip_text_model", projection, (512, 2048, 12, 8))
    return CLIPTextConfig(
        **tower,
        vocab_size=options.take("vocab_size", 49_408),
        length=options.take("max_position_embeddings", 77),
        end=_whole(options, "eos_token_id", 49_407),
    )


def _write_text(config: CLIPTextConfig) -> dict[str, Any]:
    return _write_tower(config) | {
        "model_type": "clip_text_model",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.length,
        "eos_token_id": config.end,
    }


def _read_vision(options: Options, projection: bool) -> CLIPVisionConfig:
    tower = _tower(options, "clip_vision_model", projection, (768, 3072, 12, 12))
    options.ignore("eos_token_id")
    return CLIPVisionConfig(
        **tower,
        image_size=_whole(options, "image_size", 224),
        patch=_whole(options, "patch_size", 32),
        channels=options.take("num_channels", 3),
    )


def _write_vision(config: CLIPVisionConfig) -> dict[str, Any]:
    return _write_tower(config) | {
        "model_type": "clip_vision_model",
        "image_size": config.image_size,
        "patch_size": config.patch,
        "num_channels": config.channels,
    }


def _clip_block() -> list[Rule]:
    return [
        *linear("self_attn.q_proj", "attention.qkv", part=0),
        *linear("self_attn.k_proj", "attention.qkv", part=1),
        *linear("self_attn.v_proj", "attention.qkv", part=2),
        *linear("self_attn.out_proj", "attention.out"),
        *norm("layer_norm1", "attention_norm"),
        *linear("mlp.fc1", "mlp.up"),
        *linear("mlp.fc2", "mlp.down"),
        *norm("layer_norm2", "mlp_norm"),
    ]


def _text_map(config: CLIPTextConfig) -> KeyMap:
    rules = [
        Rule("embeddings.token_embedding.weight", "tokens"),
        Rule("embeddings.position_embedding.weight", "positions"),
        *under("encoder.layers.{i}", "blocks", _clip_block()),
        *norm("final_layer_norm", "norm"),
    ]
    return _clip_map(rules, _TEXT, "text_projection", config, config.length)


def _vision_map(config: CLIPVisionConfig) -> KeyMap:
    rules = [
        Rule("embeddings.class_embedding", "class_token"),
        Rule("embeddings.patch_embedding.weight", "patch_in.kernel", patches((config.patch, config.patch))),
        Rule("embeddings.position_embedding.weight", "positions"),
        *norm("pre_layrnorm", "norm_in"),  # so spelt there
        *under("encoder.layers.{i}", "blocks", _clip_block()),
        *norm("post_layernorm", "norm"),
    ]
    return _clip_map(rules, _VISION, "visual_projection", config, config.tokens)


def _clip_map(rules: list[Rule], prefix: str, projection: str, config: Any, positions: int) -> KeyMap:
    """The map of a tower: alone, or as a part of the class with a projection."""
    numbers = Buffer("embeddings.position_ids", lambda: np.arange(positions)[None], saved=False)
    if not config.projection:
        return KeyMap(rules, [numbers], unread=(f"{projection}.weight",))
    rules = [dataclasses.replace(rule, theirs=prefix + rule.theirs) for rule in rules]
    numbers = dataclasses.replace(numbers, theirs=prefix + numbers.theirs)
    return KeyMap([*rules, *linear(projection, "projection", bias=False)], [numbers])


def _clip(published: str, module: Any, prefix: str, head: str, read: Callable, write: Callable, keymap: Callable):
    """The class of a tower and the same with a projection."""

    def full(name: str) -> str:
        return name if name.startswith((prefix, head)) else prefix + name

    options = {"write": write, "keymap": keymap, "library": "transformers"}
    alone = Family(published, module, lambda o: read(o, False), spell=lambda n: n.removeprefix(prefix), **options)
    return alone, Family(f"{published}WithProjection", module, lambda o: read(o, True), spell=full, **options)


def _read_t5(options: Options, kind: str, defaults: Mapping[str, Any]) -> T5Config:
    options.ignore(*_OF_ALL)
    options.only("model_type", kind)
    options.only("is_decoder", False)
    # Of the decoder, of training, or what `feed_forward_proj` says already.
    options.ignore(
        "num_decoder_layers", "decoder_start_token_id", "is_encoder_decoder", "dropout_rate", "classifier_dropout",
        "dense_act_fn", "is_gated_act", "n_positions", "output_past", "scale_decoder_outputs", "scalable_attention",
        "eos_token_id",
    )  # fmt: skip
    return T5Config(
        vocab_size=options.take("vocab_size", defaults["vocab_size"]),
        dim=options.take("d_model", 512),
        depth=options.take("num_layers", defaults["num_layers"]),
        heads=options.take("num_heads", defaults["num_heads"]),
        head_dim=options.take("d_kv", 64),
        mlp_dim=options.take("d_ff", defaults["d_ff"]),
        mlp=_chosen(options, "feed_forward_proj", defaults["feed_forward_proj"], _FEED_FORWARD),
        eps=options.take("layer_norm_epsilon", 1e-6),
        buckets=options.take("relative_attention_num_buckets", 32),
        max_distance=options.take("relative_attention_max_distance", 128),
        bias_per_layer=kind == "umt5",
    )


def _write_t5(config: T5Config) -> dict[str, Any]:
    return {
        "model_type": "umt5" if config.bias_per_layer else "t5",
        "vocab_size": config.vocab_size,
        "d_model": config.dim,
        "num_layers": config.depth,
        "num_heads": config.heads,
        "d_kv": config.head_dim,
        "d_ff": config.mlp_dim,
        "feed_forward_proj": _named(config.mlp, _FEED_FORWARD, "mlp"),
        "layer_norm_epsilon": config.eps,
        "relative_attention_num_buckets": config.buckets,
        "relative_attention_max_distance": config.max_distance,
    }


def _t5_map(config: T5Config) -> KeyMap:
    attention, mlp = "layer.0.SelfAttention", "layer.1.DenseReluDense"
    table = f"{attention}.relative_attention_bias.weight"
    block = [
        *linear(f"{attention}.q", "attention.qkv", bias=False, part=0),
        *linear(f"{attention}.k", "attention.qkv", bias=False, part=1),
        *linear(f"{attention}.v", "attention.qkv", bias=False, part=2),
        *linear(f"{attention}.o", "attention.out", bias=False),
        *norm("layer.0.layer_norm", "attention_norm", bias=False),
        *norm("layer.1.layer_norm", "mlp_norm", bias=False),
        *linear(f"{mlp}.wo", "mlp.down", bias=False),
    ]
    if config.mlp == "relu":
        block += linear(f"{mlp}.wi", "mlp.up", bias=False)
    else:
        up = linear("", "mlp.up", bias=False)[0]
        block += [dataclasses.replace(up, theirs=f"{mlp}.wi_{i}.weight", part=(1, i)) for i in range(2)]
    rules = [
        Rule("shared.weight", "tokens"),
        *under("encoder.block.{i}", "blocks.block", block),
        *norm("encoder.final_layer_norm", "norm", bias=False),
    ]
    if config.bias_per_layer:
        return KeyMap([*rules, Rule(f"encoder.block.{{i}}.{table}", "blocks.bias")])
    return KeyMap([*rules, Rule(f"encoder.block.0.{table}", "bias")])


def _t5(published: str, kind: str, defaults: Mapping[str, Any]) -> Family:
    twins = {"encoder.embed_tokens.weight": "shared.weight"}
    options = {"library": "transformers", "spell": lambda name: twins.get(name, name)}
    return Family(published, T5, lambda o: _read_t5(o, kind, defaults), _write_t5, _t5_map, **options)


CLIP_TEXT, CLIP_TEXT_PROJECTED = _clip(
    "CLIPTextModel", CLIPText, _TEXT, "text_projection", _read_text, _write_text, _text_map
)
CLIP_VISION, CLIP_VISION_PROJECTED = _clip(
    "CLIPVisionModel", CLIPVision, _VISION, "visual_projection", _read_vision, _write_vision, _vision_map
)
T5_ENCODER = _t5(
    "T5EncoderModel", "t5",
    {"vocab_size": 32_128, "num_layers": 6, "num_heads": 8, "d_ff": 2048, "feed_forward_proj": "relu"},
)  # fmt: skip
UMT5_ENCODER = _t5(
    "UMT5EncoderModel", "umt5",
    {"vocab_size": 250_112, "num_layers": 8, "num_heads": 6, "d_ff": 1024, "feed_forward_proj": "gated-gelu"},
)  # fmt: skip
ENCODERS = (CLIP_TEXT, CLIP_TEXT_PROJECTED, CLIP_VISION, CLIP_VISION_PROJECTED, T5_ENCODER, UMT5_ENCODER)
