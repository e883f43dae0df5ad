"""How devices are arranged."""

import dataclasses
import math

from dots_jax.config.checks import check_types, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each mesh axis; at most one may be -1, which takes all devices that the others leave.

    The batch is split over data, fsdp and expert, and every sequence over context. The defaults are our choice.
    """

    data: int = 1  # copies of the parameters
    fsdp: int = -1  # shards of every parameter
    expert: int = 1  # groups of experts; tokens are sent over this axis to theirs
    context: int = 1  # parts of every sequence

    def __post_init__(self):
        check_types(self)
        sizes = dataclasses.astuple(self)
        for field, size in zip(dataclasses.fields(self), sizes):
            require(
                size > 0 or size == -1, f"MeshConfig.{field.name} must be above 0, or -1 for the rest, but is {size}."
            )
        require(sizes.count(-1) <= 1, "MeshConfig: only one of data, fsdp, expert and context may be -1.")

    def resolve(self, num_devices: int) -> "MeshConfig":
        """The same mesh with -1 replaced.

        Raises:
          UserError: these devices cannot form the mesh.
        """
        sizes = dataclasses.asdict(self)
        known = math.prod(s for s in sizes.values() if s > 0)
        require(
            known <= num_devices,
            f"The mesh {self} needs {known} devices, but there are {num_devices}: make an axis smaller, or use -1 for one.",
        )
        if -1 in sizes.values():
            require(
                num_devices % known == 0,
                f"The mesh {self} cannot use {num_devices} devices: {num_devices} is not a multiple of {known}.",
            )
            sizes = {name: num_devices // known if size == -1 else size for name, size in sizes.items()}
        return MeshConfig(**sizes)

    @property
    def size(self) -> int:
        """Devices of a resolved mesh."""
        return self.data * self.fsdp * self.expert * self.context

    def __str__(self) -> str:
        return " x ".join(f"{name} {size}" for name, size in dataclasses.asdict(self).items())
