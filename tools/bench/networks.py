"""Published networks at sizes between a test and a job: forward, and forward and backward, here and in diffusers.

The loss is the mean square of the output; gradients are of every parameter.  Sizes are those at which the peers were
timed first: DiTs of width 384 or 512 on 2,048 tokens, UNets on 8 frames of 32 x 32.
"""

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch

from bench.options import Options, say
from bench.timing import alternate
from vdm_jax.errors import RunError
from vdm_jax.interop.cases import latte, unet, wan
from vdm_jax.interop.component import read
from vdm_jax.interop.families.family import NETWORK
from vdm_jax.interop.families.unet import UNET_3D, UNET_SPATIO_TEMPORAL
from vdm_jax.interop.parity import Case, build_published, redraw, relative_error
from vdm_jax.media.figures import Figure

TOLERANCE = 1e-4
OURS = "vdm_jax"


def _sized(case: Case, changes: dict, **inputs) -> Case:
    """A tiny case in another size."""
    inputs = {**case.inputs, **inputs, "time": np.float32([500.0])}
    return dataclasses.replace(case, published={**case.published, **changes}, inputs=inputs)


def _latte(dim: int, depth: int, clip: tuple[int, int, int]) -> Case:
    sizes = {"num_attention_heads": dim // 64, "attention_head_dim": 64, "cross_attention_dim": dim}
    sizes |= {"num_layers": depth, "caption_channels": 512, "video_length": clip[0], "sample_size": clip[1]}
    sizes |= {"in_channels": 16, "out_channels": 16}
    return _sized(latte.CASES[0], sizes, x=(1, *clip, 16), tokens=(1, 77, 512))


def _wan(dim: int, depth: int, clip: tuple[int, int, int]) -> Case:
    sizes = {"num_attention_heads": dim // 64, "attention_head_dim": 64, "in_channels": 16, "out_channels": 16}
    sizes |= {"text_dim": 512, "freq_dim": 256, "ffn_dim": 4 * dim, "num_layers": depth}
    return _sized(wan.CASES[0], sizes, x=(1, *clip, 16), tokens=(1, 128, 512))


def _unet3d(widths: tuple[int, ...], clip: tuple[int, int, int]) -> Case:
    case = next(case for case in unet.CASES if case.family is UNET_3D)
    sizes = {"block_out_channels": list(widths), "layers_per_block": 2, "cross_attention_dim": 256}
    sizes |= {"attention_head_dim": min(64, widths[0]), "norm_num_groups": 32, "sample_size": clip[1]}
    sizes |= unet.types("3D", (True,) * (len(widths) - 1) + (False,))
    return _sized(case, sizes, x=(1, *clip, 4), tokens=(1, 77, 256))


def _svd(widths: tuple[int, ...], clip: tuple[int, int, int]) -> Case:
    case = next(case for case in unet.CASES if case.family is UNET_SPATIO_TEMPORAL)
    sizes = {"block_out_channels": list(widths), "num_attention_heads": [width // 32 for width in widths]}
    sizes |= {"cross_attention_dim": 64, "num_frames": clip[0], "sample_size": clip[1]}
    latents = (1, *clip, 4)
    scalars = case.inputs["vector"][:1]
    return _sized(case, sizes, x=latents, concat=latents, tokens=(1, 1, 64), vector=scalars)


@dataclasses.dataclass(frozen=True)
class Peer:
    """A network to be timed.

    Attributes:
      case, small: at its size, and at one that only shows that everything runs.
      bar: ours over theirs, at most.
    """

    case: Callable[[], Case]
    small: Callable[[], Case]
    bar: float = 1.0


UNET_BAR = 1.3  # XLA's convolutions on CPUs are behind those of oneDNN
NETWORKS: dict[str, Peer] = {
    "latte_s": Peer(lambda: _latte(384, 6, (8, 32, 32)), lambda: _latte(64, 1, (2, 8, 8))),
    "wan_s": Peer(lambda: _wan(512, 8, (8, 32, 32)), lambda: _wan(64, 1, (2, 8, 8))),
    "unet3d_s": Peer(lambda: _unet3d((64, 128, 256, 256), (8, 32, 32)), lambda: _unet3d((32, 64), (2, 8, 8)), UNET_BAR),
    "svd_tiny": Peer(lambda: _svd((32, 64), (8, 32, 32)), lambda: _svd((32, 64), (2, 8, 8)), UNET_BAR),
}


def measure(names: Sequence[str], options: Options) -> list[Figure]:
    """Times the named networks."""
    torch.set_num_threads(options.threads)
    say(f"torch {torch.__version__}, jax {jax.__version__}, {options.threads} threads, float32")
    compiled = shutil.which("g++") is not None
    if not compiled:
        say("no g++ on this machine, so torch.compile is left out")
    return [figure for name in names for figure in _network(name, options, compiled)]


def _network(name: str, options: Options, compiled: bool) -> list[Figure]:
    peer = NETWORKS[name]
    case = peer.small() if options.quick else peer.case()
    theirs = build_published(case.family, case.published)
    redraw(theirs, case.std)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(Path(folder))
        component = read(Path(folder))
    networks = component.family.define(component.config)
    inputs = jax.device_put(case.draw())
    tensors = {key: torch.from_numpy(np.array(value)) for key, value in inputs.items()}
    sides = {"torch_eager": theirs} | ({"torch_compile": torch.compile(theirs)} if compiled else {})

    def ours(params) -> jax.Array:
        return case.ours(networks.merge({NETWORK: params})[NETWORK], inputs)

    forward = jax.jit(ours)
    gradients = jax.jit(jax.grad(lambda params: jnp.square(ours(params)).mean()))
    params = jax.device_put(component.params)
    with torch.no_grad():
        error = relative_error(np.asarray(forward(params)), case.theirs(theirs, tensors).numpy())
    say(f"{name}: relative difference of the outputs {error:.1e}")
    if not error < TOLERANCE:
        raise RunError(f"{name}: outputs of the two sides differ by {error:.1e} (at most {TOLERANCE})")

    calls = {
        "forward": {OURS: lambda: forward(params).block_until_ready()},
        "forward_backward": {OURS: lambda: jax.block_until_ready(gradients(params))},
    }
    for side, module in sides.items():
        infer, backpropagate = _theirs(theirs, lambda module=module: case.theirs(module, tensors))
        calls["forward"][side], calls["forward_backward"][side] = infer, backpropagate
    for passes in calls.values():  # inductor takes minutes a network: all of it before the first round
        for call in passes.values():
            call()
    say(f"{name}: compiled")
    rounds, bar = (3, None) if options.quick else (9, peer.bar)
    return [
        figure
        for what, passes in calls.items()
        for figure in _compared(f"models/{name}/{what}", alternate(passes, rounds), options.threads, bar)
    ]


def _theirs(module: torch.nn.Module, output: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], ...]:
    """Forward, and forward and backward, of a network of PyTorch."""

    def infer() -> None:
        with torch.no_grad():
            output()

    def backpropagate() -> None:
        module.zero_grad(set_to_none=True)
        output().square().mean().backward()

    return infer, backpropagate


def _compared(name: str, times, threads: int, bar: float | None) -> list[Figure]:
    """A figure for each peer; `bar` is the most that ours / theirs may be."""
    figures = []
    for peer in times.seconds:
        if peer == OURS:
            continue
        ratio, low, high = times.ratio(OURS, peer)
        ours, theirs = times.median(OURS) * 1e3, times.median(peer) * 1e3
        say(f"  {name}: {OURS} {ours:.1f} ms, {peer} {theirs:.1f} ms, ratio {ratio:.2f} ({low:.2f} to {high:.2f})")
        spread = times.deviation(OURS) * 1e3
        ok = None if bar is None else ratio <= bar
        figures.append(
            Figure(f"{name}/{peer}/{threads}_threads", ours, "ms", theirs, ratio, n=times.rounds, spread=spread, ok=ok)
        )
    return figures
