"""Forward passes on a GPU: batches travel in, are computed on and travel out at the same time, in one CUDA graph."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from featurizers.radiograph import Pixels
from featurizers.stages import Stages

ReadyT = TypeVar("ReadyT")
#: Batches on their way: one that travels in, one that is computed on, one that travels out.
_SLOTS = 3
#: Passes before a graph is recorded: libraries choose their kernels in the first ones.
_WARM_UP = 3
#: NVML is asked once in so many batches; it averages over about that time itself.
_BATCHES_PER_SAMPLE = 16


class CudaPasses:
    """A network on a GPU that takes batches of one size.

    The forward pass is recorded once as a CUDA graph and replayed, which spares launching its hundreds of kernels one
    by one (PyTorch's documentation, "CUDA Graphs").

    Args:
        network: uint8 (b, s, s) to float32 (b, d), on the device.
        batch_size, input_size: b and s.
        device: the GPU.
        stages: told the seconds of copies, and those for which the GPU was waited for.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        batch_size: int,
        input_size: int,
        device: torch.device,
        stages: Stages,
    ) -> None:
        self._device, self._stages, self._has_nvml = device, stages, True
        self._taken = torch.zeros((batch_size, input_size, input_size), dtype=torch.uint8, device=device)
        self._main, self._way_in, self._way_out = (torch.cuda.Stream(device) for _ in range(3))  # type: ignore[no-untyped-call]
        with torch.no_grad(), torch.cuda.device(device):
            self._main.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(self._main):
                for _ in range(_WARM_UP):
                    network(self._taken)
            self._main.synchronize()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=self._main):
                self._given = network(self._taken)
            self._slots = [_Slot(self._taken, self._given) for _ in range(_SLOTS)]

    def forward(self, batch: Pixels) -> npt.NDArray[np.float32]:
        """One pass: uint8 (b, s, s) to float32 (b, d)."""
        ((_, features),) = self.run([(None, batch)])
        return features

    def replay(self) -> None:
        """Begin a pass of the batch that lies on the device already: what the GPU could do if nothing had to travel."""
        with torch.cuda.stream(self._main):
            self._graph.replay()

    def wait(self) -> None:
        """Until all passes that were begun are done."""
        self._main.synchronize()

    def run(self, batches: Iterable[tuple[ReadyT, Pixels]]) -> Iterator[tuple[ReadyT, npt.NDArray[np.float32]]]:
        """Passes of many batches, each with what goes with it, in order."""
        # Whoever gave an earlier run up midway left batches in the slots.
        torch.cuda.synchronize(self._device)
        under_way: deque[tuple[ReadyT, _Slot]] = deque()
        for number, (told, batch) in enumerate(batches):
            if len(under_way) == _SLOTS:
                yield self._finished(*under_way.popleft())
            slot = self._slots[number % _SLOTS]
            self._begin(slot, batch)
            under_way.append((told, slot))
            if self._has_nvml and number % _BATCHES_PER_SAMPLE == 0:
                self._ask_nvml()
        while under_way:
            yield self._finished(*under_way.popleft())

    def _begin(self, slot: _Slot, batch: Pixels) -> None:
        slot.pixels.copy_(torch.from_numpy(batch))
        with torch.cuda.stream(self._way_in):
            slot.events[0].record()
            slot.on_device.copy_(slot.pixels, non_blocking=True)
            slot.events[1].record()
        with torch.cuda.stream(self._main):
            slot.events[1].wait()
            self._taken.copy_(slot.on_device)
            self._graph.replay()
            slot.given.copy_(self._given)
            slot.events[2].record()
        with torch.cuda.stream(self._way_out):
            slot.events[2].wait()
            slot.features.copy_(slot.given, non_blocking=True)
            slot.events[3].record()

    def _finished(self, told: ReadyT, slot: _Slot) -> tuple[ReadyT, npt.NDArray[np.float32]]:
        start = time.perf_counter()
        slot.events[3].synchronize()
        self._stages.compute += time.perf_counter() - start
        begun, arrived, computed, back = slot.events
        self._stages.copy += (begun.elapsed_time(arrived) + computed.elapsed_time(back)) / 1000
        # A copy: the slot is used again.
        return told, slot.features.numpy().copy()

    def _ask_nvml(self) -> None:
        try:
            percent = torch.cuda.utilization(self._device)
        except Exception:  # no NVML for Python here, or one that fails in its own way: a figure is missing then
            self._has_nvml = False
            return
        self._stages.gpu_percent += percent
        self._stages.gpu_samples += 1


class _Slot:
    """Memory of one batch on its way, on both sides; the host's is pinned, so that copies need no processor."""

    def __init__(self, taken: Tensor, given: Tensor) -> None:
        self.pixels = torch.empty_like(taken, device="cpu").pin_memory()
        self.on_device = torch.empty_like(taken)
        self.given = torch.empty_like(given)
        self.features = torch.empty_like(given, device="cpu").pin_memory()
        self.events = tuple(torch.cuda.Event(enable_timing=True) for _ in range(4))  # type: ignore[no-untyped-call]


def free_memory(device: torch.device) -> int:
    """Memory of a GPU that nobody uses, bytes."""
    return int(torch.cuda.mem_get_info(device)[0])
