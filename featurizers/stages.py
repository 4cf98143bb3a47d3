"""Where the time of an extraction goes: seconds of each stage between a stored crop and its vector."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Self, TypeVar

ItemT = TypeVar("ItemT")


@dataclass
class Stages:
    """Seconds that some workers spent, by stage; stages overlap, and each worker's own clocks are added up.

    Attributes:
        read: crops were read, in a thread of their own.
        decode: PNGs became batches of pixels: the seconds of all decoding threads together.
        wait: the backbone waited for a batch.
        copy: batches went to the device and vectors came back. 0 on a CPU; on a GPU copies run beside the backbone.
        compute: the backbone worked and the main thread waited for it.
        hand_over: the taker of the vectors took them; in a Spark job, that writes them.
        images: that went in.
        batches: that the backbone was given.
        gpu_percent: sum over batches of how busy NVML found the GPU then, 0 to 100.
        gpu_samples: how often NVML was asked; 0 where it is not there.
    """

    read: float = 0.0
    decode: float = 0.0
    wait: float = 0.0
    copy: float = 0.0
    compute: float = 0.0
    hand_over: float = 0.0
    images: int = 0
    batches: int = 0
    gpu_percent: float = 0.0
    gpu_samples: int = 0

    def __add__(self, other: Stages) -> Stages:
        return Stages(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def since(self, before: Stages) -> Stages:
        """What was added to `before` to get here."""
        return Stages(*(getattr(self, each.name) - getattr(before, each.name) for each in fields(self)))

    @classmethod
    def copy_of(cls, other: Stages) -> Self:
        """The same, which does not change with the other."""
        return cls(*(getattr(other, each.name) for each in fields(cls)))

    @property
    def gpu_utilisation(self) -> float | None:
        """How busy NVML found the GPU, 0 to 1; None where it was never asked."""
        return self.gpu_percent / self.gpu_samples / 100 if self.gpu_samples else None

    def timed(self, items: Iterable[ItemT], stage: str) -> Iterator[ItemT]:
        """`items`; the time that getting them takes is added to a stage."""
        iterator = iter(items)
        while True:
            start = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                setattr(self, stage, getattr(self, stage) + time.perf_counter() - start)
            yield item
