"""The devices that a network can work on, and what this machine has to compile for them."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path

import torch

from featurizers.errors import FeaturizerError


def check_device(name: str) -> torch.device:
    """The device of this name.

    Raises:
        FeaturizerError: if this machine has no such device.
    """
    # Before CUDA starts: numbers as nvidia-smi, and so discovery scripts, count them; CUDA's own put fast ones first.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise FeaturizerError(f"'{name}' is no device. Use cpu, cuda or cuda:N.") from error
    if name != "cpu" and device.type != "cuda":
        raise FeaturizerError(f"device={name} is not supported. Use cpu, cuda or cuda:N.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise FeaturizerError(
            f"device={name} was asked for, and torch sees {torch.cuda.device_count()} GPU(s) here. "
            "Use device=cpu, or check the driver, CUDA_VISIBLE_DEVICES and that this torch is a CUDA build."
        )
    return device


def computes_in_bf16(name: str) -> bool:
    """Whether a device of this name has bf16 arithmetic, or at least kernels for it.

    A CPU that has neither (AVX2 alone) emulates it number by number: training a network took it 13 times as long as in
    float32, measured on one such machine. Passes without gradients hardly suffer.
    """
    if name == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    # Whoever asks may have no GPU, and ask for those of a cluster's machines.
    return not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)


def can_compile() -> bool:
    """Whether this machine has what compiling a backbone needs: a C++ compiler and Python's headers."""
    has_headers = Path(sysconfig.get_path("include"), "Python.h").is_file()
    return has_headers and any(shutil.which(name) for name in ("c++", "g++", "clang++"))
