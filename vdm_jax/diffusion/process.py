"""The Gaussian process: everything that VP, EDM and rectified flow have in common, written once.

    x_t = alpha(t) x0 + sigma(t) eps                      eps ~ N(0, I)

A concrete process says what alpha and sigma are, what its network predicts, and what its network is fed; the rest
follows.  Time is per frame (`t: [B, T]`), clips are arrays `[B, T, ...]` or dicts of such.  t = 0 is exactly clean
(alpha 1, sigma 0) and `t_max` is where sampling starts.

Reverse step from t to s (DDIM, arXiv 2010.02502, for any alpha and sigma):

    x_s = k x_t + (alpha_s - k alpha_t) x0_hat + std z
    k   = sqrt(sigma_s^2 - std^2) / sigma_t
        = sigma_s / sigma_t sqrt(1 - eta^2 + (eta (alpha_t sigma_s) / (alpha_s sigma_t))^2)
    std = eta sigma_s / sigma_t sqrt(sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2)

eta = 0 is the probability-flow step, eta = 1 the posterior q(x_s | x_t, x0) (ancestral).  Written with k, nothing
is divided by alpha_t, so a prior with no signal at all (alpha = 0) needs no special case.
"""

import abc
import dataclasses

import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion.leaves import frame_times, map_frames, noise_like, select_frames
from vdm_jax.diffusion.predictions import Line, convert_line, error_ratio, line
from vdm_jax.diffusion.time_sampling import TimeSampler
from vdm_jax.diffusion.weighting import Weighting
from vdm_jax.types import Array, Clip, Time

_X0 = Line(0.0, 1.0)
_LEVEL_FLOOR = 1e-7  # weights are ratios of levels; below this both sides of the ratio stop changing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Process(abc.ABC):
    """A noising process together with how a network is trained on it.  Stored with every checkpoint.

    Attributes:
      times: which levels training draws.
      weighting: how much an error counts at each of them.
    """

    times: TimeSampler
    weighting: Weighting

    @property
    @abc.abstractmethod
    def t_max(self) -> float:
        """The level of the prior."""

    @abc.abstractmethod
    def alpha_sigma(self, t: Time) -> tuple[Array, Array]:
        """Signal and noise amplitude at t, elementwise, float32; (1, 0) exactly at t = 0."""

    @abc.abstractmethod
    def output_line(self, alpha: Array, sigma: Array) -> Line:
        """What the network predicts at a level, as a mixture of eps and x0."""

    @abc.abstractmethod
    def network_time(self, t: Time) -> Array:
        """What the network is told about t, elementwise; finite for every t in [0, t_max]."""

    @abc.abstractmethod
    def time_from_unit(self, u: Array) -> Time:
        """Maps [0, 1] to the levels of training, increasing."""

    @abc.abstractmethod
    def time_from_log_ratio(self, z: Array) -> Time:
        """The level at which ln(sigma / alpha) = z, kept inside the levels of training."""

    @abc.abstractmethod
    def levels(self, steps: int) -> np.ndarray:
        """`[K + 1]` float32 on the host, decreasing from t_max to exactly 0: the usual levels of K steps."""

    def network_input(self, x_t: Clip, t: Time) -> Clip:
        """What the network is fed for x_t."""
        return x_t

    def ode_coordinates(self, alpha: Array, sigma: Array) -> tuple[Array, Array]:
        """(scale, clock) such that x_t / scale is a straight line in `clock` while x0 and eps stay what they are.

        This is what Euler and Heun integrate.  The default, scale alpha + sigma and clock sigma / (alpha + sigma),
        turns any process into the rectified flow, which is regular at both ends.
        """
        return alpha + sigma, sigma / (alpha + sigma)

    def sample_time(self, rng: Array, batch: int, frames: int) -> Time:
        """Draws training levels `[B, T]` float32."""
        draw = self.times.sample(rng, batch, frames)
        to_time = self.time_from_log_ratio if self.times.scale == "log_ratio" else self.time_from_unit
        return jnp.clip(to_time(draw), 0.0, self.t_max).astype(jnp.float32)

    def q_sample(self, x0: Clip, noise: Clip, t: Time) -> Clip:
        """Noises x0 to level t; a frame at t = 0 comes back bit for bit."""
        level = self.alpha_sigma(frame_times(t, x0))
        return map_frames(lambda x, e, a, s: a * x + s * e, (x0, noise), level)

    def target(self, x0: Clip, noise: Clip, t: Time) -> Clip:
        """What the network's output is regressed to."""
        level = self.alpha_sigma(frame_times(t, x0))

        def mix(x, e, alpha, sigma):
            space = self.output_line(alpha, sigma)
            return space.noise * e + space.clean * x

        return map_frames(mix, (x0, noise), level)

    def weight(self, t: Time) -> Array:
        """The weight on the squared error of the network's output, of t's shape."""
        alpha, sigma = (jnp.maximum(level, _LEVEL_FLOOR) for level in self.alpha_sigma(t))
        weight = self.weighting.weight(alpha, sigma)
        if self.weighting.stated_in != "output":
            space = line(self.weighting.stated_in, alpha, sigma)
            weight = weight * error_ratio(self.output_line(alpha, sigma), space, alpha, sigma) ** 2
        return jnp.minimum(weight, self.weighting.clip)

    def belief(self, output: Clip, x_t: Clip, t: Time) -> Clip:
        """The clean clip x0_hat that a network output stands for."""
        level = self.alpha_sigma(frame_times(t, x_t))

        def to_x0(y, x, alpha, sigma):
            return convert_line(y, x, self.output_line(alpha, sigma), _X0, alpha, sigma)

        return map_frames(to_x0, (output, x_t), level)

    def noise_belief(self, x0_hat: Clip, x_t: Clip, t: Time) -> Clip:
        """The noise eps_hat that x0_hat implies; zero at sigma = 0, where it could be anything."""
        level = self.alpha_sigma(frame_times(t, x_t))

        def to_noise(x0, x, alpha, sigma):
            return jnp.where(sigma > 0.0, (x - alpha * x0) / jnp.where(sigma > 0.0, sigma, 1.0), 0.0)

        return map_frames(to_noise, (x0_hat, x_t), level)

    def reverse_step(
        self, x_t: Clip, x0_hat: Clip, t: Time, s: Time, noise: Clip | None = None, eta: float = 0.0
    ) -> Clip:
        """One step from level t to level s, per frame (equation at the top).

        Args:
          x_t, x0_hat: the clip and what it is believed to come from.
          t, s: levels, `[B, T]` or broadcastable; frames with s = t come back bit for bit, s = 0 gives x0_hat.
          noise: standard normal, like x_t; needed if eta > 0.
          eta: 0 deterministic, 1 ancestral.

        Raises:
          ValueError: eta > 0 without noise.
        """
        if eta > 0.0 and noise is None:
            raise ValueError(f"noise: missing; a reverse step with eta={eta} draws noise")
        t, s = frame_times(t, x_t), frame_times(s, x_t)
        keep, take = self.step_coefficients(t, s, eta)
        x_s = map_frames(lambda x, x0, k, c: k * x + c * x0, (x_t, x0_hat), (keep, take))
        if eta > 0.0:
            x_s = map_frames(lambda x, z, d: x + d * z, (x_s, noise), (eta * self.posterior_std(t, s),))
        return select_frames(t == s, x_t, x_s)

    def step_coefficients(self, t: Time, s: Time, eta: float = 0.0) -> tuple[Array, Array]:
        """(k, alpha_s - k alpha_t), the weights of x_t and of x0_hat in a step from t to s; (0, 1) at s = 0."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.alpha_sigma(t), self.alpha_sigma(s)
        keep = sigma_s / jnp.where(sigma_t > 0.0, sigma_t, 1.0)
        if eta > 0.0:  # sigma_s^2 - std^2 itself would cancel where little of x_t is kept
            kept = keep * alpha_t / jnp.where(alpha_s > 0.0, alpha_s, 1.0)
            keep = keep * _sqrt(1.0 - eta**2 + (eta * kept) ** 2)
        return keep, alpha_s - keep * alpha_t

    def posterior_std(self, t: Time, s: Time) -> Array:
        """Standard deviation of q(x_s | x_t, x0) for s <= t, elementwise."""
        (_, sigma_t), (_, sigma_s) = self.alpha_sigma(t), self.alpha_sigma(s)
        _, added = self.forward_coefficients(s, t)
        return sigma_s / jnp.where(sigma_t > 0.0, sigma_t, 1.0) * added

    def forward_coefficients(self, s: Time, t: Time) -> tuple[Array, Array]:
        """(r, std) of q(x_t | x_s) = N(r x_s, std^2) for s <= t, elementwise."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.alpha_sigma(t), self.alpha_sigma(s)
        ratio = alpha_t / jnp.where(alpha_s > 0.0, alpha_s, 1.0)
        return ratio, _sqrt(sigma_t**2 - (ratio * sigma_s) ** 2)

    def forward_step(self, x_s: Clip, s: Time, t: Time, noise: Clip) -> Clip:
        """Noises a clip further, from level s up to level t >= s: a draw of q(x_t | x_s)."""
        s, t = frame_times(s, x_s), frame_times(t, x_s)
        ratio, added = self.forward_coefficients(s, t)
        x_t = map_frames(lambda x, z, r, d: r * x + d * z, (x_s, noise), (ratio, added))
        return select_frames(t == s, x_s, x_t)

    def prior(self, rng: Array | None, like: Clip, noise: Clip | None = None) -> Clip:
        """A draw at t_max for data of unit variance: noise of standard deviation sqrt(alpha^2 + sigma^2).

        Args:
          rng: key; None where `noise` is given.
          like: shape of the clip.
          noise: unit-variance noise like it, by default independent (see `sampling.noise`).
        """
        leading_std = jnp.hypot(*self.alpha_sigma(jnp.float32(self.t_max)))
        noise = noise_like(rng, like) if noise is None else noise
        return map_frames(lambda z: leading_std * z, (noise,), ())


def _sqrt(variance: Array) -> Array:
    """Square root that is 0, with gradient 0, where rounding has left nothing (or less)."""
    positive = variance > 0.0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1.0)), 0.0)


def check_steps(steps: int) -> None:
    """Refuses a number of sampling steps below 1."""
    if steps < 1:
        raise ValueError(f"steps: {steps!r} must be at least 1")
