"""A text-to-video run of two narrow blocks on 128 tokens, as a config."""

import functools
import json

from vdm_jax.planning.compile import Traced, trace_step
from vdm_jax.planning.targets import parse_target
from vdm_jax.training.run_config import RunConfig, run_config_from


def small_config(**sections) -> RunConfig:
    """The run; `model={"depth": 3}` and the like change fields of its sections."""
    config = {
        "process": {"kind": "rectified_flow", "prediction": "velocity"},
        "model": {"kind": "dit", "channels": 4, "patch": (1, 2, 2), "dim": 64, "depth": 2, "heads": 4, "remat": "full"},
        "text": {"vocab_size": 64, "length": 8, "dim": 32, "depth": 1, "heads": 2},
        "data": {"shards": "nowhere", "frames": 2, "height": 16, "width": 16},
        "train": {"steps": 100, "batch_size": 8, "precision": "bfloat16", "dropout": {"tokens": 0.1}},
        "ema": {"decays": (0.999,)},
        "optimizer": {},
        "mesh": {"data": 2, "fsdp": 4},
    }
    for name, fields in sections.items():
        config[name] = None if fields is None else {**config[name], **fields}
    return run_config_from(config)


def small_trace(target: str, **sections) -> Traced:
    """Its step, traced once for all tests."""
    return _trace(target, json.dumps(sections, sort_keys=True))


@functools.cache
def _trace(target: str, sections: str) -> Traced:
    return trace_step(small_config(**json.loads(sections)), parse_target(target))
