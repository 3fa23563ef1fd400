"""What the code being traced will run on: its platform and mesh.

Network code and kernels ask here instead of `jax.default_backend()`, because a program for an absent TPU is
compiled on a machine whose default backend is the CPU.
"""

import jax


def current_mesh():
    """The mesh set by `jax.set_mesh` (abstract inside a trace), or None when there is none."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty else mesh


def axis_size(axis: str) -> int:
    """Devices along a mesh axis; 1 when there is no mesh or no such axis."""
    mesh = current_mesh()
    return 1 if mesh is None else mesh.shape.get(axis, 1)


def partitioned() -> bool:
    """True if the current mesh has more than one device."""
    mesh = current_mesh()
    return mesh is not None and mesh.size > 1


def target_platform() -> str:
    """`cpu`, `gpu` or `tpu`: what the current mesh is made of, else the default backend."""
    mesh = current_mesh()
    if mesh is not None:
        device = getattr(mesh, "abstract_device", None)
        kind = (getattr(device, "device_kind", "") or "").lower() if device is not None else ""
        if kind:
            return "tpu" if "tpu" in kind else "cpu" if kind == "cpu" else "gpu"
    backend = jax.default_backend()
    return "gpu" if backend in ("cuda", "rocm") else backend
