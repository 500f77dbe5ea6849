"""vLLM weight-transfer backend `penstock`: a worker loads one policy version from a file on this host.

The service process has fetched and checked the bytes already (fetching.py); workers of a tensor-parallel engine map the
same file. Importing this module registers the backend; engine workers import it as their `worker_extension_cls`.

vLLM's CPU build repacks weights and drops the originals, so only its layer-wise reload is right, and two layers need
help (shared research, vllm): tied output heads keep a handle of the old bytes, and mixture-of-experts kernels skip
their repacking on updates. An update that lacks a tensor raises nothing in vLLM: names are compared with the manifest.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from services.generation.drafting.cpu_sampling import repair_sampling
from services.generation.merging import merged

BACKEND = "penstock"


@dataclasses.dataclass
class FileInit(WeightTransferInitInfo):
    """Nothing to connect to."""


@dataclasses.dataclass
class FileUpdate(WeightTransferUpdateInfo):
    """One version: where its bytes are, and (name, dtype, shape, offset, size) of every tensor.

    scale: None for the model's own tensors; else these are adapters on the model that the engine was started with.
    """

    path: str
    tensors: list[tuple[str, str, list[int], int, int]]
    scale: float | None = None


class FileWeightTransfer(WeightTransferEngine[FileInit, FileUpdate]):
    """Loads versions from files."""

    init_info_cls = FileInit
    update_info_cls = FileUpdate

    def init_transfer_engine(self, init_info: FileInit) -> None:
        """Nothing to do: every update names its file."""

    def start_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)
        _forget_packed_experts(self.model)

    def receive_weights(self, update_info: FileUpdate) -> None:
        seen: set[str] = set()
        tensors = self._tensors(update_info, seen)
        if update_info.scale is not None:
            tensors = merged(self.model_config.model, dict(tensors), update_info.scale)
        taken = self.model.load_weights(tensors)
        missing = [t[0] for t in update_info.tensors if t[0] not in seen]
        if missing:
            raise RuntimeError(f"the model did not take {len(missing)} tensors, first {missing[0]!r}")
        left = sorted(name for name, _ in self.model.named_parameters() if name not in taken) if taken else []
        left = [name for name in left if not _is_tied_head(self.model, name)]
        if left:  # of an engine that was started without weights it would be random
            raise RuntimeError(f"the version has nothing for {len(left)} of the model's tensors, first {left[0]!r}")

    def finish_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)
        _repack_tied_heads(self.model)

    def shutdown(self) -> None:
        """Holds nothing open."""

    def _tensors(self, update: FileUpdate, seen: set[str]) -> Iterator[tuple[str, torch.Tensor]]:
        end = max(offset + size for *_, offset, size in update.tensors)
        whole = torch.from_file(update.path, shared=False, size=end, dtype=torch.uint8)
        for name, dtype, shape, offset, size in update.tensors:
            # An owned copy: the layer-wise reload keeps tensors until their layer is complete.
            tensor = whole[offset : offset + size].clone().view(getattr(torch, dtype)).view(shape)
            seen.add(name)
            yield name, tensor


def _is_tied_head(model: torch.nn.Module, name: str) -> bool:
    """Whether a parameter is a head that the configuration ties to the embedding: a version has none."""
    tied = bool(getattr(getattr(model, "config", None), "tie_word_embeddings", False))
    return tied and name == "lm_head.weight"


def _repack_tied_heads(model: torch.nn.Module) -> None:
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    for module in model.modules():
        if isinstance(module, VocabParallelEmbedding) and hasattr(module, "cpu_linear"):
            module.quant_method.process_weights_after_loading(module)


def _forget_packed_experts(model: torch.nn.Module) -> None:
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    for module in model.modules():
        method: Any = getattr(module, "quant_method", None)
        if getattr(method, "moe_kernel", None) is not None:
            method.moe_kernel = None


class WorkerExtension:
    """Mixed into vLLM's worker; importing it registers the backend, and repairs sampling, in the worker's process."""


if BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(BACKEND, FileWeightTransfer)
repair_sampling()
