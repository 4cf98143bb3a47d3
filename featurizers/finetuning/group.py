"""The group of processes that train together: how one joins it, and how it leaves without waiting for ever."""

from __future__ import annotations

import gc

import torch
from torch import distributed


def join_group(device: torch.device) -> None:
    """Join the processes that torchrun started: by NCCL between GPUs, by Gloo between CPUs."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")


def leave_group() -> None:
    """End the group, when nothing of a training is held any more; all processes must.

    A thread of Gloo's that lets a collective's tensors go needs Python's lock, and the end of the group, which holds
    that lock, waits for the thread: for ever, if it comes too soon. So what holds the group goes first, and one more
    collective, which has no tensors, leaves the threads with nothing to let go.
    """
    gc.collect()
    distributed.barrier()
    distributed.destroy_process_group()
