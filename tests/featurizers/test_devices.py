"""Devices: those that are there, and what to do about those that are not."""

from __future__ import annotations

import pytest
import torch

from featurizers.devices import check_device
from featurizers.errors import FeaturizerError


def test_the_cpu_is_there() -> None:
    assert check_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:-1", "cuda:x"], ids=["word", "empty", "negative", "letter"])
def test_a_name_that_is_no_device_is_told_with_those_that_are(name: str) -> None:
    with pytest.raises(FeaturizerError, match=rf"'{name}' is no device. Use cpu, cuda or cuda:N"):
        check_device(name)


def test_a_gpu_that_is_not_there_is_told_with_what_to_check() -> None:
    with pytest.raises(FeaturizerError, match=r"device=cuda:99 .*GPU\(s\) here. .*device=cpu.*CUDA_VISIBLE_DEVICES"):
        check_device("cuda:99")


@pytest.mark.parametrize("name", ["mps", "xpu", "meta"])
def test_a_device_of_another_machine_is_told(name: str) -> None:
    """All are names that torch knows; none computes here."""
    with pytest.raises(FeaturizerError, match="Use cpu, cuda or cuda:N"):
        check_device(name)
