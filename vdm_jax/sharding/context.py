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
    """True if the compiler may cut arrays over the current mesh: some axis has several devices and is not manual."""
    mesh = current_mesh()
    return mesh is not None and any(mesh.shape[axis] > 1 for axis in (*mesh.auto_axes, *mesh.explicit_axes))


def target_device_kind() -> str:
    """What JAX calls the devices of the current mesh (`TPU v5`, `NVIDIA H200`), or else the default ones."""
    mesh = current_mesh()
    device = None if mesh is None else getattr(mesh, "abstract_device", None)
    return (device and device.device_kind) or jax.devices()[0].device_kind


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
