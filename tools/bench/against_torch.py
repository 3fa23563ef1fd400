"""Section `torch`: our train step against PyTorch's, same weights, same batch, float32, one process, taking turns.

Before anything is timed, both sides take one step with the same draws and must agree on output, loss and gradient
norm.  A step is loss, gradients, clipping, AdamW and the averages of the weights; ours has the guard on top.
"""

import functools
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import torch

from bench.options import Options, say
from bench.peers import Case, TorchTrainer, tiny_case, wan_case
from bench.timing import Times, alternate
from vdm_jax.errors import RunError
from vdm_jax.media.figures import Figure

TOLERANCE = 1e-3
OURS = "vdm_jax"


def measure(options: Options) -> list[Figure]:
    """Both shapes; see the module docstring."""
    threads = options.threads
    torch.set_num_threads(threads)
    say(f"torch {torch.__version__}, jax {jax.__version__}, {threads} threads, float32, {options.environment}")
    if options.quick:
        tiny = tiny_case({"train.batch_size": 4, "model.depth": 2})
        cases = [(tiny, 2), (wan_case(dim=128, depth=2, clip=(2, 8, 8, 16)), 2)]
    else:
        cases = [(tiny_case(), 15), (wan_case(), 7)]
    figures = []
    for case, rounds in cases:
        figures += _steps(case, rounds, options)
        if case.text is None:
            figures += _diffusers(case, rounds, options)
    return figures


def _steps(case: Case, rounds: int, options: Options) -> list[Figure]:
    """The train step and the forward pass, against eager and compiled PyTorch."""
    trainers = {"torch_eager": TorchTrainer(case)}
    if shutil.which("g++"):
        trainers["torch_compile"] = TorchTrainer(case, compiled=True)
    else:
        say(f"{case.name}: no g++ on this machine, so torch.compile is left out")
    step, state = case.train_step(), case.state()
    batch = jax.device_put(case.batch)
    draws = case.draws()
    forward = jax.jit(case.forward)
    x, t = jnp.asarray(draws["noise"]), jnp.asarray(draws["time"])
    inputs = torch.from_numpy(np.array(draws["noise"])), torch.from_numpy(np.array(draws["time"]))

    output = forward(state.params, x, 1000 * t)
    state, metrics = step(state, batch)
    check_agreement(case, trainers["torch_eager"], output, metrics, draws)
    params = jax.device_put(case.params)

    def our_step() -> None:
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))

    peers = {OURS: our_step} | {name: trainer.step for name, trainer in trainers.items()}
    figures = _compared(f"{case.name}/step", _timed(peers, rounds, case), options, bar=True)
    peers = {OURS: lambda: forward(params, x, 1000 * t).block_until_ready()}
    peers |= {"torch_eager": lambda: trainers["torch_eager"].forward(*inputs)}
    return figures + _compared(f"{case.name}/forward", _timed(peers, rounds, case), options)


def _diffusers(case: Case, rounds: int, options: Options) -> list[Figure]:
    """Forward and backward of mean(output^2) against diffusers' class of the same shape (other weights)."""
    from diffusers import WanTransformer3DModel

    cfg = case.model
    peer = WanTransformer3DModel(
        patch_size=cfg.patch, num_attention_heads=cfg.heads, attention_head_dim=cfg.head_dim, in_channels=cfg.channels,
        out_channels=cfg.channels, text_dim=cfg.text_dim, ffn_dim=cfg.hidden, num_layers=cfg.depth,
    )  # fmt: skip
    clip, tokens = case.batch["video"], case.batch["tokens"]
    channels_first = torch.from_numpy(np.ascontiguousarray(clip.transpose(0, 4, 1, 2, 3)))
    features, when = torch.from_numpy(tokens), torch.full((len(clip),), 500)

    def theirs() -> None:
        peer.zero_grad(set_to_none=True)
        peer(channels_first, when, features, return_dict=False)[0].square().mean().backward()

    def loss(params):
        time_told = jnp.full(clip.shape[:2], 500.0)
        return jnp.square(case.forward(params, jnp.asarray(clip), time_told)).mean()

    gradients = functools.partial(jax.jit(jax.grad(loss)), jax.device_put(case.params))
    peers = {OURS: lambda: jax.block_until_ready(gradients()), "diffusers": theirs}
    return _compared(f"{case.name}/forward_backward", _timed(peers, rounds, case), options, bar=True)


def check_agreement(case: Case, trainer: TorchTrainer, output, metrics, draws) -> None:
    """Compares output, loss and gradient norm of the two sides.

    Args:
      case, trainer: the sides; the trainer takes one step.
      output: of our networks for the noise as input.
      metrics: of our first train step.
      draws: of that step.

    Raises:
      RunError: they differ by more than `TOLERANCE`; a time ratio of two different models says nothing.
    """
    given = {name: torch.from_numpy(np.array(value)) for name, value in draws.items()}
    theirs = trainer.forward(given["noise"], given["time"]).numpy()
    loss, norm = trainer.step(given)
    ours = np.asarray(output)
    errors = {
        "output": float(np.abs(ours - theirs).max() / np.abs(theirs).max()),
        "loss": abs(float(metrics["loss"]) - loss) / loss,
        "gradient norm": abs(float(metrics["grad_norm"]) - norm) / norm,
    }
    say(f"{case.name}: relative differences: " + ", ".join(f"{k} {v:.1e}" for k, v in errors.items()))
    for name, error in errors.items():
        if not error < TOLERANCE:
            raise RunError(f"{case.name}: {name} of the two sides differs by {error:.1e} (at most {TOLERANCE})")


def _timed(peers, rounds: int, case: Case) -> Times:
    begin = time.perf_counter()
    times = alternate(peers, rounds)
    say(f"{case.name}: {', '.join(peers)}: {rounds} rounds in {time.perf_counter() - begin:.0f} s, compiling included")
    return times


def _compared(name: str, times: Times, options: Options, bar: bool = False) -> list[Figure]:
    """A figure for each peer; the bar is ours / theirs of 1.0 or less."""
    figures = []
    for peer in times.seconds:
        if peer == OURS:
            continue
        ratio, low, high = times.ratio(OURS, peer)
        ours, theirs = times.median(OURS) * 1e3, times.median(peer) * 1e3
        ok = ratio <= 1.0 if bar else None
        say(f"  {name}: {OURS} {ours:.1f} ms, {peer} {theirs:.1f} ms, ratio {ratio:.2f} ({low:.2f} to {high:.2f})")
        name_of = f"torch/{name}/{peer}{options.suffix}"
        spread = times.deviation(OURS) * 1e3
        figures.append(Figure(name_of, ours, "ms", theirs, ratio, n=times.rounds, spread=spread, ok=ok))
    return figures
