"""Trajectories of published schedulers and of ours, from the same toy network and the same draws.

The network is a fixed nonlinear function, element by element, of what it is fed and told.  Ours runs all step counts at
once, each in a frame of its own that is held when it is through.
"""

import functools
import inspect
import json
from pathlib import Path
from types import ModuleType

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch

from vdm_jax.interop.schedulers.published import read_scheduler
from vdm_jax.sampling import make_denoiser, sample

FOLDER = Path(__file__).parents[1] / "published" / "schedulers"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
COUNTS = (20, 1, 2, 4, 50)
CLIP = (6, 4)  # what follows [B, T]
# The least optimised compile: these programs run once and are tiny.
_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@functools.cache
def published(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def draws(steps):
    """Standard normal `[steps + 1, 1, 1, *CLIP]`; the first is the start."""
    return np.random.default_rng(steps).normal(size=(steps + 1, 1, 1, *CLIP)).astype(np.float32)


def network(x, told, numpy=np):
    """Output between -1.3 and 1.3 that bends with x and with the time."""
    return numpy.tanh(0.8 * x + 0.3 * numpy.cos(0.01 * told)) + 0.3 * numpy.sin(2.0 * x)


def our_paths(config, counts, strength=1.0, **choices):
    """Latents `[K + 1, 1, 1, *CLIP]` in the published unit, and the plan, for each K, of which a part is taken."""
    scheduler = read_scheduler(config)
    plans = [scheduler.plan(steps, **choices).part(strength) for steps in counts]
    assert len({plan.solver for plan in plans}) == 1  # or they could not share a run
    told_by = [plan.told_by(scheduler.process) for plan in plans]

    def told(t):
        return jnp.concatenate([one(t[:, i : i + 1]) for i, one in enumerate(told_by)], axis=1)

    denoiser = make_denoiser(scheduler.process, lambda x, t, cond: network(x, t[..., None, None], jnp), told)
    longest = max(counts)
    tau, lands = (np.stack(rows, axis=1) for rows in zip(*(_rows(plan, longest) for plan in plans)))
    noise = [draws(steps) for steps in counts]
    start = jnp.concatenate([plan.start(z[0]) for plan, z in zip(plans, noise)], axis=1)
    later = np.concatenate([_held(z[1:], longest) for z in noise], axis=2)
    settings = {"solver": plans[0].solver, "hooks": plans[0].hooks, "rising": plans[0].rising}

    @functools.partial(jax.jit, compiler_options=_QUICK)
    def run(start, later):
        return sample(denoiser, scheduler.process, start, tau, {}, lands=lands, noise=later, record=True, **settings)[
            1
        ].x

    path = np.asarray(run(start, later))
    frames = (path[: len(plan.levels), :, i : i + 1] for i, plan in enumerate(plans))
    units = (plan.units.astype(np.float32).reshape(-1, 1, 1, 1, 1) for plan in plans)
    return [frame * unit for frame, unit in zip(frames, units)], plans


def _rows(plan, longest):
    """Levels `[longest + 1]` and where steps land `[longest]`: those of the plan, then standing still."""
    lands = plan.levels[1:] if plan.lands is None else plan.lands
    return _held(plan.levels, longest + 1), _held(np.append(lands, plan.levels[-1]), longest)[:longest]


def _held(rows, length):
    return np.concatenate([rows, np.repeat(rows[-1:], max(length - len(rows), 0), axis=0)])


def their_path(config, steps, monkeypatch, mu=None, eta=None, double=False, strength=1.0):
    """The latents of the published scheduler, and itself after `set_timesteps`.

    `strength` leaves steps out as published pipelines do.  With `double`, its arithmetic is float64 wherever it says
    float32; its tables stay as they are.
    """
    scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
    scheduler.set_timesteps(steps, **({} if mu is None else {"mu": mu}))
    module, noise = inspect.getmodule(type(scheduler)), draws(steps)
    if double:
        monkeypatch.setattr(module, "torch", _Double("torch"))
        scheduler.sigmas = scheduler.sigmas.double()
        noise = noise.astype(np.float64)
    own = {} if eta is None else {"eta": eta}
    x = torch.from_numpy(noise[0, 0]) * getattr(scheduler, "init_noise_sigma", 1.0)
    path, memory = [x.numpy()], None
    for index, t in enumerate(scheduler.timesteps[(steps - int(steps * strength)) * scheduler.order :]):
        draw = torch.from_numpy(noise[min(index, steps - 1) + 1, 0])
        monkeypatch.setattr(module, "randn_tensor", lambda *a, draw=draw, **k: draw, raising=False)
        fed = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        out = torch.from_numpy(network(fed.numpy(), x.numpy().dtype.type(t)))
        if "CogVideoXDPM" in config["_class_name"]:
            back = scheduler.timesteps[index - 1] if index else None
            x, memory = scheduler.step(out, memory, t, back, x)
        else:
            x = scheduler.step(out, t, x, **own).prev_sample
        x = x.to(torch.from_numpy(noise).dtype)
        path.append(x.numpy())
    if "Heun" in config["_class_name"]:  # two evaluations a step, one in the last
        path = [path[0], *path[2::2], path[-1]]
    if "PNDM" in config["_class_name"] and steps > 1:  # two evaluations in the first step
        del path[1]
    return np.stack(path)[:, None], scheduler


class _Double(ModuleType):
    """torch, whose float32 is float64."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


def worst(ours, theirs):
    """The largest relative error of any step: largest difference over largest value."""
    assert len(ours) == len(theirs)
    return max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(ours, theirs))
