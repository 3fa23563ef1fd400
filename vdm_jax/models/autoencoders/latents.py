"""What an encoder gives, and the scale on which a diffusion model sees it.

    q(z | x) = N(mean, exp(logvar)),        normalised: (z - shift) / scale,  per channel

Source: 1312.6114 for the posterior, 2112.10752 (appendix D.1) for the scale.
"""

import dataclasses

import jax
import jax.numpy as jnp

Array = jax.Array

_LOGVAR = (-30.0, 20.0)  # beyond it the published classes clip, too


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Posterior:
    """A normal distribution of latents.

    Attributes:
      mean, logvar: `[B, t, h, w, c]`; the logarithm of the variance is within [-30, 20].
    """

    mean: Array
    logvar: Array

    @classmethod
    def of(cls, moments: Array) -> "Posterior":
        """From what an encoder puts out, `[B, t, h, w, 2 c]`: the mean, then logvar."""
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return cls(mean, jnp.clip(logvar, *_LOGVAR))

    def mode(self) -> Array:
        """The most likely latents, `[B, t, h, w, c]`."""
        return self.mean

    def sample(self, rng: Array) -> Array:
        """Latents drawn with a JAX key, `[B, t, h, w, c]`."""
        return self.at(jax.random.normal(rng, self.mean.shape, self.mean.dtype))

    def at(self, noise: Array) -> Array:
        """Latents that given standard normal noise leads to, both `[B, t, h, w, c]`."""
        return self.mean + jnp.exp(0.5 * self.logvar) * noise

    def kl(self) -> Array:
        """Divergence from the standard normal distribution in nats, `[B]`."""
        mean, logvar = self.mean.astype(jnp.float32), self.logvar.astype(jnp.float32)
        each = 0.5 * (mean**2 + jnp.exp(logvar) - 1.0 - logvar)
        return each.sum(tuple(range(1, each.ndim)))


@dataclasses.dataclass(frozen=True)
class Scale:
    """From latents to numbers of about zero mean and unit variance, and back.

    Attributes:
      shift, scale: one number for each channel, or one for all.
    """

    shift: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)

    def normalise(self, latents: Array) -> Array:
        """What the diffusion model sees: `[..., c] -> [..., c]`."""
        return (latents - jnp.asarray(self.shift, latents.dtype)) / jnp.asarray(self.scale, latents.dtype)

    def restore(self, normalised: Array) -> Array:
        """What the decoder reads, the inverse of `normalise`."""
        return normalised * jnp.asarray(self.scale, normalised.dtype) + jnp.asarray(self.shift, normalised.dtype)


def check_channels(field: str, values: tuple[float, ...] | None, channels: int) -> None:
    """Raises ValueError unless there is one value for each latent channel, or none at all."""
    if values is not None and len(values) != channels:
        raise ValueError(f"{field}: {len(values)} values for {channels} latent channels")
