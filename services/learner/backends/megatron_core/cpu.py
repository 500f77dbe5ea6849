"""Runs megatron-core on CPU tensors and gloo; does nothing where CUDA is available.

Megatron-Core names the CUDA device in a few dozen places. Every `megatron.core` module therefore gets its own *view* of
torch (its global `torch`) in which those names mean the CPU. Patching torch itself would leak into every other library,
and rewriting Megatron's source would depend on import order. Outside Megatron only `Tensor.cuda` changes, which on such
a machine could only raise; `torch.cuda.is_available()` stays False.

    megatron_cpu.install()      # before or after importing megatron.core, once per process
"""

import contextlib
import functools
import importlib.machinery
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch

_CPU = torch.device("cpu")


class _View(types.ModuleType):
    """A module seen with some attributes replaced."""

    def __init__(self, module: types.ModuleType, **replaced: Any) -> None:
        super().__init__(module.__name__)
        self.__dict__.update(replaced, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _on_cpu(factory: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(factory)
    def make(*args: Any, **kwargs: Any) -> Any:
        if str(kwargs.get("device")).startswith("cuda"):
            kwargs["device"] = _CPU
        return factory(*args, **kwargs)

    return make


class _Stream:
    """CPU work is in order, so every stream operation is a no-op (megatron-core 0.17 and later ask for a stream)."""

    def __getattr__(self, name: str) -> "Callable[..., _Stream]":
        return lambda *args, **kwargs: self  # an event that is recorded is as idle


_TORCH = _View(
    torch,
    cuda=_View(
        torch.cuda,
        current_device=lambda: _CPU,
        synchronize=lambda *args: None,
        manual_seed=torch.manual_seed,
        get_rng_state=torch.get_rng_state,
        current_stream=lambda *args: _Stream(),
        Stream=lambda *args, **kwargs: _Stream(),
        stream=lambda *args: contextlib.nullcontext(),
    ),
    **{name: _on_cpu(getattr(torch, name)) for name in ("tensor", "empty", "zeros", "ones", "empty_like")},
)


def _fix_random(module: Any) -> None:
    """The tracked generator is torch's CPU generator, so forking saves and restores that one."""
    module._get_cuda_rng_state = lambda device="cuda", clone=False, graph_safe=False: torch.get_rng_state()
    module._set_cuda_rng_state = lambda state, device=-1, graph_safe=False: torch.set_rng_state(state)

    @contextlib.contextmanager
    def fork(self: Any, name: str = module._MODEL_PARALLEL_RNG_TRACKER_NAME) -> Iterator[None]:
        outer, outer_name = torch.get_rng_state(), self._current_state_name
        if outer_name != "default-rng":
            self.states_[outer_name] = outer
        torch.set_rng_state(self.states_[name])
        self._current_state_name = name
        try:
            yield
        finally:
            self.states_[name] = torch.get_rng_state()
            torch.set_rng_state(self.states_.get(outer_name, outer))
            self._current_state_name = outer_name

    module.CudaRNGStatesTracker.fork = fork


def _fix_type_names(module: Any) -> None:
    """`param.type() == "torch.cuda.FloatTensor"`: rewrites the string constants of the module's functions."""
    names = {f"torch.cuda.{t}": f"torch.{t}" for t in ("FloatTensor", "HalfTensor", "BFloat16Tensor")}

    def substitute(constant: Any) -> Any:
        if isinstance(constant, tuple):
            return tuple(map(substitute, constant))
        if isinstance(constant, types.CodeType):
            return constant.replace(co_consts=tuple(map(substitute, constant.co_consts)))
        return names.get(constant, constant) if isinstance(constant, str) else constant

    own = [o for o in vars(module).values() if getattr(o, "__module__", None) == module.__name__]
    for obj in own + [m for o in own if inspect.isclass(o) for m in vars(o).values()]:
        function = inspect.unwrap(getattr(obj, "__func__", obj)) if callable(obj) or hasattr(obj, "__func__") else None
        if inspect.isfunction(function):
            function.__code__ = substitute(function.__code__)


def _fix_split_sizes(module: Any) -> None:
    """Sizes of all-to-all messages become numbers where they are copied from the device, and only there."""
    move = module.maybe_move_tensor_to_cpu

    def to_cpu(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
        on_cpu = torch.is_tensor(tensor) and not tensor.is_cuda
        return tensor.numpy() if on_cpu and as_numpy else move(tensor, as_numpy, record_stream)

    module.maybe_move_tensor_to_cpu = to_cpu


_FIXES: dict[str, Callable[[Any], None]] = {
    "megatron.core.tensor_parallel.random": _fix_random,
    "megatron.core.optimizer.optimizer": _fix_type_names,
    "megatron.core.optimizer.clip_grads": _fix_type_names,
    "megatron.core.optimizer.distrib_optimizer": _fix_type_names,
    "megatron.core.transformer.moe.token_dispatcher": _fix_split_sizes,
}
"""What a view of torch cannot reach; each is applied once, when its module has been executed."""


def _fix(module: types.ModuleType) -> None:
    if module.__dict__.get("torch") is torch:
        module.__dict__["torch"] = _TORCH
    if module.__name__ in _FIXES:
        _FIXES.pop(module.__name__)(module)


class _Finder:
    """Fixes each megatron.core module as soon as it has been executed."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if not name.startswith("megatron.core"):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_fix(module: types.ModuleType) -> None:
                execute(module)
                _fix(module)

            spec.loader.exec_module = execute_and_fix  # type: ignore[method-assign]
        return spec


def install() -> bool:
    """Idempotent; says whether Megatron now runs on the CPU."""
    if torch.cuda.is_available():
        return False
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
        torch.Tensor.cuda = lambda self, *args, **kwargs: self
        for name in [n for n in sys.modules if n.startswith("megatron.core")]:
            _fix(sys.modules[name])
    return True
