"""What a learner's rank needs in memory, counted before anything is started. Knows neither recipes nor torch."""

from penstock.memory_plan.activations import layer_activations, selected_activations
from penstock.memory_plan.layout import PlannedLayout
from penstock.memory_plan.shapes import MEGATRON, Shapes, architecture, mixture_of, read_shapes
from penstock.memory_plan.stages import GIB, HEAD_BYTES, SLICE, Stage, adapter_parameters, stages

__all__ = [
    "GIB",
    "HEAD_BYTES",
    "MEGATRON",
    "SLICE",
    "PlannedLayout",
    "Shapes",
    "Stage",
    "adapter_parameters",
    "architecture",
    "layer_activations",
    "mixture_of",
    "read_shapes",
    "selected_activations",
    "stages",
]
