"""A simulated GPU, for testing device handling on machines without one; it says nothing about speed.

It computes on the CPU, but tracks which memory was "moved to the GPU", reports that device, and refuses what CUDA
refuses: tensors on two devices in one operation, NumPy views of GPU memory, GPU random numbers from a CPU generator,
recurrent weights scattered in memory (cuDNN only warns about them), and steps of fused optimizers whose tensors lie
differently in memory (on a CPU they are taken, but wrongly). On demand it also refuses synchronizing calls,
as `torch.cuda.set_sync_debug_mode` does. It sees the arguments and results of calls from Python, not what happens
inside them; a gradient is on the device of its parameter. It supports one GPU and one thread.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.utils import clip_grad
from torch.overrides import TorchFunctionMode
from torch.utils._foreach_utils import _group_tensors_by_device_and_dtype

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
TWO_DEVICES = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
WAITS = "called a synchronizing CUDA operation"
# Calls that return a value from the GPU to Python, or a tensor whose shape depends on values there.
READS = {"item", "tolist", "nonzero", "argwhere", "unique", "unique_consecutive", "masked_select", "bincount"}
READS |= {"equal", "allclose", "is_nonzero", "multinomial", "one_hot"}
READS |= {f"__{name}__" for name in ("bool", "int", "float", "index", "complex", "contains", "repr", "format")}
UPLOADS = {"tensor", "as_tensor", "asarray", "new_tensor"}
MAY_MIX = {Tensor.copy_, Tensor.data.__set__, torch._has_compatible_shallow_copy_type}  # type: ignore[attr-defined]
NAME = "pretended GPU"
PRUNED = 10_000  # storages that are tracked before freed ones are dropped


class PretendedGpu(TorchFunctionMode):
    """Intercepts every call of torch's functions from Python.

    Attributes:
        stream: the state of the GPU's random number generator.
        known, pinned: the storages on the GPU, and the CPU's pinned storages, by address.
        impatient: whether synchronizing calls are refused.
    """

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, StorageWeakRef] = {}  # a weak reference keeps its address from being reused
        self.pinned: dict[int, StorageWeakRef] = {}
        self.impatient = False
        self.seed(0)
        self.own: dict[Any, Callable[..., Any]] = {
            Tensor.device.__get__: self.device_of,  # type: ignore[attr-defined]
            Tensor.is_cuda.__get__: self.holds,  # type: ignore[attr-defined]
            Tensor.is_cpu.__get__: lambda tensor: not self.holds(tensor),  # type: ignore[attr-defined]
            Tensor.to: self.to,
            Tensor.cpu: lambda tensor: self.move(tensor, CPU),
            Tensor.cuda: lambda tensor: self.move(tensor, GPU),
            Tensor.pin_memory: self.pin,
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.own:
            return self.own[func](*args, **kwargs)
        given = [*tensors(args), *tensors(kwargs.values())]
        device = self.common_device(given) if kwargs.get("device") is None else torch.device(kwargs["device"])
        self.check(func, args, kwargs, given, device)
        if self.impatient and self.waits(func, args, kwargs, given, device):
            raise RuntimeError(f"{WAITS}: {func.__name__}")
        if "device" in kwargs and device.type == "cuda":
            kwargs = {**kwargs, "device": CPU}
        with self.drawing(device):
            made = func(*args, **kwargs)
        return self.place(made, given, device)

    def holds(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self.known

    def device_of(self, tensor: Tensor) -> torch.device:
        return GPU if self.holds(tensor) else tensor.device

    def common_device(self, given: list[Tensor]) -> torch.device:
        return GPU if any(map(self.holds, given)) else CPU

    def check(self, func: Any, args: Any, kwargs: Any, given: list[Tensor], device: torch.device) -> None:
        """Raise the errors that CUDA would raise."""
        if self.common_device(given) == device == CPU or device.type == "meta" or func in MAY_MIX:
            return
        if func in (Tensor.numpy, Tensor.__array__):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        if device.type == "cuda" and any(isinstance(each, torch.Generator) for each in (*args, *kwargs.values())):
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        if func.__name__ == "gru" and len({w.untyped_storage()._cdata for w in args[2]}) > 1:
            raise RuntimeError("RNN module weights are not part of single contiguous chunk of memory.")
        if func.__name__ == "gru" and not args[1].is_contiguous():
            raise RuntimeError("rnn: hx is not contiguous")
        if func.__name__ in ("_fused_adam_", "_fused_adamw_"):
            weights, *others = ([layout(tensor) for tensor in part] for part in args[:4])  # with gradients and moments
            if any(other != weights for other in others):
                raise RuntimeError("params, grads, exp_avgs, and exp_avg_sqs must have same dtype, device, and layout")
        if func in (Tensor.__getitem__, Tensor.__setitem__):  # type: ignore[comparison-overlap]
            given = self.checked_index(*args)
        if len({self.holds(tensor) for tensor in given if tensor.dim() or self.holds(tensor)}) > 1:
            raise RuntimeError(TWO_DEVICES)

    def checked_index(self, whole: Tensor, index: Any, *values: Any) -> list[Tensor]:
        """The tensors that must share a device. CPU tensors may index a GPU tensor and be assigned to its slices.

        Raises:
            RuntimeError: a CPU tensor is indexed by a GPU tensor.
        """
        indices = list(tensors([index]))
        if not self.holds(whole) and any(map(self.holds, indices)):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        return [whole, *tensors(values)] if indices else []

    def waits(self, func: Any, args: Any, kwargs: Any, given: list[Tensor], device: torch.device) -> bool:
        """Whether a call, other than those handled by `move`, waits for the GPU."""
        if self.common_device(given) == device == CPU:
            return False
        if func in (Tensor.__getitem__, Tensor.__setitem__):  # type: ignore[comparison-overlap]
            return self.index_waits(*args)
        if func is Tensor.copy_:
            return self.copy_waits(*given, bool(kwargs.get("non_blocking", args[2:])))
        if func.__name__ == "where":
            return len(args) == 1
        if func.__name__ == "repeat_interleave":
            return any(map(self.holds, tensors(args[1:]))) and "output_size" not in kwargs
        if func.__name__ in UPLOADS:
            return device.type == "cuda"
        return func.__name__ in READS and any(map(self.holds, given))

    def index_waits(self, whole: Tensor, index: Any, *values: Any) -> bool:
        """Whether indexing waits: a mask needs nonzero, a 0-d tensor is read, and CPU data is copied."""
        parts = index if isinstance(index, tuple) else (index,)
        ends = [end for part in parts if isinstance(part, slice) for end in (part.start, part.stop, part.step)]
        used, number = [*tensors(parts)], bool(values) and not isinstance(values[0], Tensor)
        searched = any(each.dtype == torch.bool for each in used) and not number
        read = any(not each.dim() for each in used) or any(isinstance(end, Tensor) for end in ends)
        lists = any(isinstance(part, list | np.ndarray) for part in parts)
        fetched = lists or any(not self.holds(each) for each in [*used, *tensors(values)])
        return searched or read or fetched or (number and not whole[index].dim())

    def copy_waits(self, one: Tensor, other: Tensor, non_blocking: bool) -> bool:
        if self.holds(one) == self.holds(other):
            return False
        return not (non_blocking and any(each.untyped_storage()._cdata in self.pinned for each in (one, other)))

    @contextmanager
    def drawing(self, device: torch.device) -> Iterator[None]:
        """Draw random numbers for the GPU from its own generator."""
        if device.type != "cuda":
            yield
            return
        before = torch.default_generator.get_state()
        torch.default_generator.set_state(self.stream)
        try:
            yield
        finally:
            self.stream = torch.default_generator.get_state()
            torch.default_generator.set_state(before)

    def seed(self, seed: int) -> None:
        self.stream = torch.Generator().manual_seed(seed).get_state()

    def place(self, made: Any, given: list[Tensor], device: torch.device) -> Any:
        """Record the device of results, except of those that share memory with an argument and so are on its device."""
        shared = {tensor.untyped_storage()._cdata for tensor in given}
        for tensor in tensors([made]):
            if tensor.untyped_storage()._cdata not in shared:
                self.note(tensor, device)
        return made

    def note(self, tensor: Tensor, device: torch.device) -> None:
        if device.type == "cuda":
            remember(self.known, tensor)

    def pin(self, tensor: Tensor) -> Tensor:
        if self.holds(tensor):
            raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
        pinned = tensor.clone()
        remember(self.pinned, pinned)
        return pinned

    def set_sync_debug_mode(self, mode: str) -> None:
        self.impatient = mode == "error"

    def to(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args and isinstance(args[0], Tensor):
            return self.move(tensor, self.device_of(args[0]), args[0].dtype)
        device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
        return self.move(tensor, device, dtype, non_blocking)

    def move(
        self,
        tensor: Tensor,
        device: torch.device | None,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> Tensor:
        before = self.device_of(tensor)
        device = device or before
        pinned = tensor.untyped_storage()._cdata in self.pinned
        if self.impatient and device.type != before.type and not (non_blocking and pinned):
            raise RuntimeError(f"{WAITS}: to")
        moved = tensor.to(dtype or tensor.dtype, copy=device.type != before.type)
        return self.place(moved, [tensor], device)

    def flatten(self, module: nn.RNNBase) -> None:
        """Put a recurrent net's weights into one contiguous storage, as `flatten_parameters` does on a GPU."""
        weights = [weight for weight in module._flat_weights if weight is not None]
        if weights and all(weight.is_cuda for weight in weights):
            parts = torch.cat([weight.detach().flatten() for weight in weights]).split([w.numel() for w in weights])
            for weight, part in zip(weights, parts, strict=True):
                weight.data = part.view_as(weight)

    def group(self, lists: list[list[Tensor]]) -> dict[tuple[torch.device, torch.dtype | None], Any]:
        """Group tensors by device and dtype for gradient clipping; torch's C++ code would see their real device."""
        found = _group_tensors_by_device_and_dtype(lists)  # type: ignore[arg-type]
        return {(self.device_of(parts[0][0]), dtype): (parts, places) for (_, dtype), (parts, places) in found.items()}


def remember(memory: dict[int, StorageWeakRef], tensor: Tensor) -> None:
    """Add a tensor's storage; if there are too many, drop the freed ones."""
    storage = tensor.untyped_storage()
    memory[storage._cdata] = StorageWeakRef(storage)
    if len(memory) > PRUNED:
        for number in [number for number, held in memory.items() if held.expired()]:
            del memory[number]


def layout(tensor: Tensor) -> tuple[torch.dtype, list[tuple[int, int]]]:
    """How a tensor lies in memory: its dtype, and size and stride of each dimension that has more than one place."""
    return tensor.dtype, [(size, step) for size, step in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]


def tensors(values: Any) -> Iterator[Tensor]:
    """The tensors among the values, including those in nested lists and tuples."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors(value)


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Make torch see one simulated GPU."""
    gpu = PretendedGpu()
    states = {
        "get_rng_state": lambda device=GPU: gpu.stream.clone(),
        "get_rng_state_all": lambda: [gpu.stream.clone()],
        "set_rng_state": lambda state, device=GPU: setattr(gpu, "stream", state.clone()),
        "set_rng_state_all": lambda states: setattr(gpu, "stream", states[0].clone()),
        "manual_seed_all": gpu.seed,
        "set_sync_debug_mode": gpu.set_sync_debug_mode,
    }
    facts = {"is_available": True, "is_initialized": True, "device_count": 1, "current_device": 0}
    facts |= {"get_device_name": NAME, "is_current_stream_capturing": False, "synchronize": None}
    answers = {name: mock.Mock(return_value=fact) for name, fact in facts.items()}
    with (
        mock.patch.multiple(torch.cuda, **states, **answers),
        # No accelerator, as in a CPU build: a CUDA build of torch would ask the driver about its streams.
        mock.patch.object(torch.accelerator, "current_accelerator", return_value=None),
        mock.patch.object(nn.RNNBase, "flatten_parameters", lambda module: gpu.flatten(module)),
        mock.patch.object(clip_grad, "_group_tensors_by_device_and_dtype", gpu.group),
        gpu,
    ):
        yield
