"""The wires between devices: how fast one device can send to the others of its group.

A collective runs as rings.  On a torus a group that lies along several dims has rings along each of them; a dim that
is closed (`Chip.wraps`) and spanned whole carries a ring in both directions, any other one only as a line:

    bandwidth = link x sum over the dims of (2 if closed and spanned, else 1)

GPUs of a node are all joined at one rate.  What leaves a slice or a node goes over the network port of each device;
with k members of the group inside, k rings share the work and each device sends at k ports' rate, or at that of its
links where those are slower.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from vdm_jax.planning.targets import Target


@dataclasses.dataclass(frozen=True)
class Network:
    """Where the devices of a mesh stand.

    Attributes:
      target: the machine.
      places: `[devices, dims]` int: slice, place in the torus and core on the chip for a TPU; node and place in the
        node otherwise, in the order of the mesh.
    """

    target: Target
    places: np.ndarray

    @classmethod
    def of(cls, target: Target, devices: Sequence[jax.Device]) -> "Network":
        """The network of a mesh's devices, in its order; those of a GPU target are numbered node by node."""
        if target.platform == "tpu":
            rows = [(getattr(d, "slice_index", 0), *d.coords, d.core_on_chip) for d in devices]
        else:
            node = target.chip.node if target.chip else target.devices
            rows = [divmod(index, node) for index in range(target.devices)]
        return cls(target, np.array(rows))

    def bandwidth(self, members: Sequence[int]) -> float:
        """Bytes/s at which one device of a group sends; infinite for a group of one, and where no wire is known.

        Args:
          members: device numbers along the mesh.
        """
        chip = self.target.chip
        if chip is None or len(members) < 2:
            return float("inf")
        places = self.places[list(members)]
        parts = np.unique(places[:, 0], return_counts=True)[1]
        inside = self._inside(places[places[:, 0] == places[0, 0]]) if parts.max() > 1 else float("inf")
        return inside if len(parts) == 1 else min(inside, chip.network * int(parts.min()))

    def crosses(self, members: Sequence[int]) -> bool:
        """Whether a group spans slices or nodes."""
        return len(members) > 0 and len(set(self.places[list(members), 0].tolist())) > 1

    def _inside(self, places: np.ndarray) -> float:
        """Rate within one slice or node."""
        chip = self.target.chip
        if not chip.wraps:
            return chip.link
        links = 0
        for dim, whole in zip(places[:, 1:4].T, (*self.target.shape, 1, 1)):
            spanned = len(set(dim.tolist()))
            closed = spanned == whole and whole in chip.wraps
            links += 2 if closed else 1 if spanned > 1 else 0
        # Two devices of one chip talk over the chip, which is no slower than a link.
        return chip.link * max(links, 1)
