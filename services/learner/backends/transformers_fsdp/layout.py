"""Which ranks share what on the transformers backend.

    rank = data rank × tensor + tensor rank        data 2, tensor 2:   ranks 0 1 | 2 3 hold the same rows' halves

Tensor ranks cut the matrices of a layer and see the same sequences; data ranks own slices of what is left of every
parameter and see different ones.
"""

import datetime
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from penstock.recipes.sections import Learner, Parallel
from services.learner.backends.packing.building import Cut
from services.learner.interface.errors import LayoutError


def check_ranks(parallel: Parallel, world: int) -> None:
    """Raises LayoutError for sizes that this backend does not have."""
    for name in ("pipeline", "context", "virtual_stages", "expert"):
        if getattr(parallel, name) != 1:
            raise LayoutError(
                f"parallel.{name} = {getattr(parallel, name)}: backend transformers has data and tensor ranks alone; "
                "use 1, or backend megatron"
            )
    if parallel.overlap:
        raise LayoutError("parallel.overlap = True: backend transformers always overlaps; use False")
    if parallel.sequence_parallel:
        raise LayoutError(
            "parallel.sequence_parallel = True: backend transformers has none; use False, or backend megatron"
        )
    if world % parallel.tensor:
        raise LayoutError(f"parallel.tensor = {parallel.tensor} must divide the number of learner ranks, {world}")


@dataclass(frozen=True)
class Ranks:
    """This rank's place. data_mesh: of the ranks that share its slices; tensor_mesh: of those that share its matrices,
    None where nobody does."""

    data: int
    tensor: int
    data_mesh: DeviceMesh
    tensor_mesh: DeviceMesh | None

    @staticmethod
    def of(learner: Learner, device: torch.device) -> "Ranks":
        """Builds the groups (a collective). Raises LayoutError before any group exists."""
        world, parallel = dist.get_world_size(), learner.parallel
        check_ranks(parallel, world)
        if parallel.tensor == 1:
            return Ranks(world, 1, init_device_mesh(device.type, (world,)), None)
        data = world // parallel.tensor
        ranks = torch.arange(world).view(data, parallel.tensor)
        timeout = datetime.timedelta(minutes=learner.collective_minutes)
        groups = [_own_group(part.tolist(), timeout) for part in (ranks.t(), ranks)]
        mesh = DeviceMesh.from_group(groups, device.type, mesh=ranks, mesh_dim_names=("data", "tensor"))
        return Ranks(data, parallel.tensor, mesh["data"], mesh["tensor"])

    @property
    def data_rank(self) -> int:
        return dist.get_rank() // self.tensor

    @property
    def tensor_rank(self) -> int:
        return dist.get_rank() % self.tensor

    @property
    def cut(self) -> Cut:
        """This rank's share of a batch."""
        return Cut(self.data, self.data_rank)

    def describe(self) -> dict[str, int]:
        """The sizes that a checkpoint of this layout can be loaded into."""
        return {"data": self.data, **({"tensor": self.tensor} if self.tensor > 1 else {})}


def _own_group(rows: list[list[int]], timeout: datetime.timedelta) -> Any:
    """The group of the row that this rank is in; every rank makes all groups."""
    groups = [(row, dist.new_group(row, timeout=timeout)) for row in rows]
    return next(group for row, group in groups if dist.get_rank() in row)
