"""What a chip can do."""

import time

import jax
import jax.numpy as jnp

# Dense bfloat16 peak of one device in FLOP/s, by the prefix of jax's device_kind (vendors' data sheets).
PEAK_FLOPS: dict[str, float] = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
    "TPU7x": 1153.5e12,
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
