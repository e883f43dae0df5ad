"""What a chip can do, and how chips are wired."""

import dataclasses
import time

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU. Bandwidths are bytes/s, sizes GiB; all of one chip, which jax may show as several devices.

    flops: dense bfloat16 peak. usable_gib: of hbm_gib, what a run may plan with; the rest is for the runtime and fragments.
    clock: of the compiler's cycles, in Hz. ici: of one link in one direction, 90 % of the data sheet's. dims: of its torus.
    host_gib: of a host's memory, each chip's part, of Cloud TPU's machines.
    dcn: of a host's network between slices, shared by the chips of the host (an assumption: 200 Gbit/s).
    pcie: between a chip and its host, one direction: 15 GB/s is typical, and 90 % of the 32 GB/s that v6e has (jax-ml's
    "How to scale your model", TPU specs).
    cores: that share the work of one device.
    """

    name: str
    kind: str
    flops: float
    hbm_gib: float
    usable_gib: float
    hbm: float
    clock: float
    ici: float
    dims: int
    devices: int = 1
    chips_per_host: int = 4
    dcn: float = 25e9
    pcie: float = 15e9
    host_gib: float = 48
    cores: int = 1

    def wraps(self, shape: tuple[int, ...]) -> tuple[bool, ...]:
        """Which axes of a slice close to a ring: of 3D chips multiples of 4 (complete cubes of 64), of 2D chips only 16."""
        if self.dims == 3:
            return (all(size % 4 == 0 for size in shape),) * len(shape)
        return tuple(size == 16 for size in shape)


CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip("v5e", "TPU v5 lite", 197e12, 16, 14.5, 819e9, 1.5e9, 45e9, 2),
        Chip("v5p", "TPU v5", 459e12, 95, 85, 2765e9, 1.75e9, 90e9, 3, host_gib=112, cores=2),
        Chip("v6e", "TPU v6", 918e12, 32, 29, 1640e9, 1.75e9, 90e9, 2, pcie=28.8e9, host_gib=180),
        Chip("tpu7x", "TPU7x", 2307e12, 192, 180, 7380e9, 2.2e9, 90e9, 3, devices=2, host_gib=240),
    )
}

# Dense bfloat16 peak of one device in FLOP/s, by the prefix of jax's device_kind (vendors' data sheets).
PEAK_FLOPS: dict[str, float] = {
    "TPU v4": 275e12,
    "TPU v5e": 197e12,
    **{chip.kind: chip.flops / chip.devices for chip in CHIPS.values()},
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def peak_flops(device: jax.Device) -> tuple[float, str]:
    """Peak FLOP/s of one device and where the figure is from; of a CPU, all its cores, measured here in half a second."""
    for prefix, flops in PEAK_FLOPS.items():
        if device.device_kind.startswith(prefix):
            return flops, "data sheet, bfloat16"
    size = 1536
    x = jnp.ones((size, size), jnp.float32)
    matmul = jax.jit(lambda a: a @ a)
    matmul(x).block_until_ready()
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        matmul(x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    # The cores of a machine serve all its simulated devices.
    return 2 * size**3 / min(seconds) / jax.local_device_count(), "measured, float32"
