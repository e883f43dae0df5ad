"""How the compiler is asked to compile the train step, by kind of device. The planner and `train` use the same."""

from jax.sharding import Mesh

# Collectives leave the cores that compute: the SparseCores of v5p and TPU7x gather and scatter weights while matmuls run.
# Without it every collective of the step stands in the way of all others.
SPARSE_CORES = {
    "xla_tpu_enable_sparse_core_collective_offload_all_gather": True,
    "xla_tpu_enable_sparse_core_collective_offload_2d_all_gather": True,
    "xla_tpu_enable_sparse_core_collective_offload_reduce_scatter": True,
    "xla_tpu_enable_sparse_core_collective_offload_nd_reduce_scatter": True,
    # Several may wait for their turn: one at a time, the small ones would keep the large ones from starting early.
    "xla_tpu_enable_sparse_core_offload_queuing_in_lhs": True,
    "xla_tpu_sparse_core_offload_queuing_overlap_limit": 8,
}
# On-chip memory that one operation may take: larger tiles for the grouped matmuls of experts with many rows, and dense products
# that take their weights in fewer pieces. Half of the 128 MiB of a v5e, v5p or v6e, and of the 64 MiB of a TPU7x device.
VMEM_KIB = {"xla_tpu_scoped_vmem_limit_kib": 65_536}
HALF_VMEM_KIB = {"xla_tpu_scoped_vmem_limit_kib": 32_768}

# By the prefix of jax's device_kind.
OPTIONS: dict[str, dict[str, bool | int]] = {
    "TPU v5 lite": VMEM_KIB,
    "TPU v5": SPARSE_CORES | VMEM_KIB,
    "TPU v6": SPARSE_CORES | VMEM_KIB,
    "TPU7x": SPARSE_CORES | HALF_VMEM_KIB,
}


def compiler_options(mesh: Mesh) -> dict[str, bool | int]:
    """XLA's options for programs on this mesh; none for CPUs and GPUs."""
    kind = mesh.devices.flat[0].device_kind
    return next((options for prefix, options in OPTIONS.items() if kind.startswith(prefix)), {})
