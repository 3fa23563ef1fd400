"""What one device of each accelerator can do: the peak table that every predicted time and MFU is a share of.

"Device" is what JAX calls one: a chip, except on TPU 7x, where a chip shows two (its figures here are half a chip).
Arithmetic peaks are those of `training.flops`, so that a predicted and a measured MFU have one denominator.

Sources, read in November 2026:
  TPU      docs.cloud.google.com/tpu/docs/{v5e, v5p, v6e, tpu7x}: HBM, bidirectional ICI and data-centre bandwidth per
           chip, and ports.  `link` is one port in one direction: bidirectional bandwidth / (2 x ports).
           Usable HBM is what libtpu 0.0.42 itself says when a program does not fit.
  NVIDIA   data sheets of H100 SXM and H200 SXM: memory, NVLink 900 GB/s both ways together, and one 400 Gb/s network
           port a GPU, as in the DGX and HGX designs of eight GPUs a node.
"""

import dataclasses

from vdm_jax.training.flops import peak_flops

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak rates of one JAX device.

    Attributes:
      name: as in a target (`v5p`).
      kind: `jax.Device.device_kind`, the key of the arithmetic peak.
      hbm: bytes a program may use.
      hbm_bandwidth: bytes/s.
      link: bytes/s of one link in one direction: an ICI port, or a GPU's NVLink as a whole.
      network: bytes/s of one device to others that `link` does not reach (other slices, other nodes).
      wraps: sizes of a torus dim that are closed to a ring; () where the devices of a node are all joined.
      node: devices that `link` joins when there is no torus.
    """

    name: str
    kind: str
    hbm: float
    hbm_bandwidth: float
    link: float
    network: float
    wraps: tuple[int, ...] = ()
    node: int = 0

    @property
    def flops(self) -> float:
        """Dense bf16 FLOP/s."""
        return peak_flops(self.kind)


# 3D tori are built of cubes of 4 x 4 x 4 and closed wherever a dim is a multiple of 4; 2D ones only at full length.
_CUBES = tuple(range(4, 65, 4))

CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", "TPU v5 lite", 15.75 * GIB, 819e9, 50e9, 25e9 / 8, wraps=(16,)),
        Chip("v5p", "TPU v5", 95.74 * GIB, 2765e9, 100e9, 50e9 / 8, wraps=_CUBES),
        Chip("v6e", "TPU v6 lite", 31.25 * GIB, 1638e9, 100e9, 100e9 / 8, wraps=(16,)),
        Chip("tpu7x", "TPU7x", 94.75 * GIB, 3690e9, 50e9, 50e9 / 8, wraps=_CUBES),
        Chip("h100", "NVIDIA H100 80GB HBM3", 80e9, 3350e9, 450e9, 50e9, node=8),
        Chip("h200", "NVIDIA H200", 141e9, 4800e9, 450e9, 50e9, node=8),
    )
}
