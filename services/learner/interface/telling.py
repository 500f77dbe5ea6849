"""What ranks tell each other beside tensors: text, numbers, shapes and lists of them, without pickle.

torch's own collectives of objects unpickle whatever comes: whoever reached a rank's port could run code as the learner.
Here a value is bytes that `torch.load(weights_only=True)` reads, which knows plain values and tensors and nothing else.

Invariant (test name): what is no plain value is refused by whoever reads it.
"""

import io
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def told(value: Any, src: int = 0, group: dist.ProcessGroup | None = None) -> Any:
    """Rank `src`'s value (the world's number), on every rank of the group; a collective."""
    device = _device(group)
    sent = _sent(value, device) if dist.get_rank() == src else None
    size = torch.tensor([0 if sent is None else sent.numel()], device=device)
    dist.broadcast(size, src, group=group)
    data = torch.empty(int(size), dtype=torch.uint8, device=device) if sent is None else sent
    dist.broadcast(data, src, group=group)
    return value if sent is not None else _read(data)


def told_by_all(value: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Every rank's value in the order of the group's ranks, on every rank; a collective."""
    device, world = _device(group), dist.get_world_size(group)
    sent = _sent(value, device)
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world)]
    dist.all_gather(sizes, torch.tensor([sent.numel()], device=device), group=group)
    longest = max(int(size) for size in sizes)
    padded = torch.cat([sent, sent.new_zeros(longest - sent.numel())])
    gathered = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(gathered, padded, group=group)
    return [_read(data[: int(size)]) for data, size in zip(gathered, sizes, strict=True)]


def told_first(value: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Every rank's value in the order of the group's ranks on its first, nothing elsewhere; a collective."""
    device, world = _device(group), dist.get_world_size(group)
    sent = _sent(value, device)
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world)]
    dist.all_gather(sizes, torch.tensor([sent.numel()], device=device), group=group)
    if dist.get_rank(group):
        dist.send(sent, group=group, group_dst=0)
        return []
    found = [value]
    for rank in range(1, world):
        data = torch.empty(int(sizes[rank]), dtype=torch.uint8, device=device)
        dist.recv(data, group=group, group_src=rank)
        found.append(_read(data))
    return found


def _device(group: dist.ProcessGroup | None) -> torch.device:
    """Where a group's collectives want their tensors."""
    if "nccl" in dist.get_backend(group):
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _sent(value: Any, device: torch.device) -> Tensor:
    written = io.BytesIO()
    torch.save(value, written)
    return torch.frombuffer(bytearray(written.getbuffer()), dtype=torch.uint8).to(device)


def _read(data: Tensor) -> Any:
    """Raises UnpicklingError for what is no plain value."""
    return torch.load(io.BytesIO(data.cpu().numpy().tobytes()), map_location="cpu", weights_only=True)
