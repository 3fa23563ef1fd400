"""Section `chunked`: memory of the blockwise kernel, 4k to 128k tokens on one device, by the compiler's account.

Operands, results and copies of them in another layout grow with the length, tiles must not, and a matrix of scores
would grow with its square.  So the temporaries *of one token* must not grow.
"""

import jax
import jax.numpy as jnp

from bench.options import Options, say
from vdm_jax.attention import attend
from vdm_jax.media.figures import Figure

LENGTHS = (4096, 16_384, 65_536, 131_072)
HEADS, HEAD_DIM = 4, 64
FLAT = 1.05  # temporaries of a token at any length, over those at the shortest


def measure(options: Options) -> list[Figure]:
    """Temporaries of a forward and backward pass, whole and of one token."""
    figures, first = [], None
    for length in LENGTHS[: 2 if options.quick else None]:
        size = temporaries(length)
        each = size / length
        first = first or each
        say(f"chunked {length:7} tokens: {size / 2**20:8.1f} MiB of temporaries, {each:7.0f} bytes a token")
        figures.append(Figure(f"chunked/{length}_tokens", size / 2**20, "MiB"))
        figures.append(Figure(f"chunked/{length}_tokens/each", each, "B", first, each / first, ok=each <= FLAT * first))
    return figures


def temporaries(length: int) -> int:
    """Bytes, operands and results not counted."""
    operand = jax.ShapeDtypeStruct((1, HEADS, length, HEAD_DIM), jnp.float32)

    def run(q, k, v, d_out):
        out, pull = jax.vjp(lambda q, k, v: attend(q, k, v, kernel="chunked", layout="BHND"), q, k, v)
        return out, pull(d_out)

    return jax.jit(run).lower(*[operand] * 4).compile().memory_analysis().temp_size_in_bytes
