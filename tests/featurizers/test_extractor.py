"""Fingerprints: equal exactly where everything that decides a vector is equal, and stable from release to release."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import string

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featurizers.backbones import Weights
from featurizers.errors import WeightsError
from featurizers.extractor import Extractor, Precision, describe_extractor

FIELDS = {
    "backbone": st.text(max_size=8),
    "crops": st.text(max_size=8),
    "weights_sha256": st.text(string.hexdigits, max_size=8),
    "precision": st.sampled_from(Precision),
    "preprocessing": st.text(max_size=8),
    "layer": st.text(max_size=8),
    "format_version": st.integers(0, 3),
}
EXTRACTORS = st.builds(Extractor, **FIELDS)
SOME = Extractor("resnet50", "ab" * 32, Precision.BF16, "crops", "crop to 224x224", "global_average_pool", 1)


def weights(value: float, source: str = "somewhere") -> Weights:
    return Weights(source, {"conv1.weight": torch.full((2, 2), value)})


@given(EXTRACTORS, EXTRACTORS, st.sets(st.sampled_from(sorted(FIELDS))))
def test_fingerprints_are_equal_exactly_where_all_fields_are(
    first: Extractor, other: Extractor, shared: set[str]
) -> None:
    second = dataclasses.replace(other, **{name: getattr(first, name) for name in shared})
    assert (first.fingerprint == second.fingerprint) == (first == second)


@given(EXTRACTORS, st.sampled_from(sorted(FIELDS)), st.data())
def test_every_single_field_changes_the_fingerprint(first: Extractor, name: str, data: st.DataObject) -> None:
    changed = data.draw(FIELDS[name].filter(lambda value: value != getattr(first, name)))
    assert dataclasses.replace(first, **{name: changed}).fingerprint != first.fingerprint


@given(EXTRACTORS)
def test_a_fingerprint_is_64_hexadecimal_digits(extractor: Extractor) -> None:
    assert re.fullmatch("[0-9a-f]{64}", extractor.fingerprint)


def test_a_fingerprint_is_the_sha256_of_the_canonical_json() -> None:
    canonical = (
        '{"backbone":"resnet50","crops":"crops","format_version":1,"layer":"global_average_pool","precision":"bf16",'
        '"preprocessing":"crop to 224x224","weights_sha256":"' + "ab" * 32 + '"}'
    )
    # What is stored as it always was is not told, so that older extractors keep their name.
    assert json.loads(canonical) | {"storage": "float32"} == dataclasses.asdict(SOME)
    assert SOME.fingerprint == hashlib.sha256(canonical.encode()).hexdigest()


def test_the_fingerprint_of_a_lake_made_by_this_release_stays() -> None:
    """Another value orphans the features of every lake: change it only together with FORMAT_VERSION."""
    extractor = describe_extractor("resnet50", weights(1.0), Precision.BF16, "crops")
    assert extractor.fingerprint == "748dd530d190e20ec745caa64d63cd9ab46e706d8c727456b775e6aba6522dbb"


def test_the_same_settings_are_the_same_extractor() -> None:
    first = describe_extractor("resnet50", weights(1.0, "imagenet"), Precision.BF16, "crops")
    second = describe_extractor("resnet50", weights(1.0, "file resnet50.pth"), Precision.BF16, "crops")
    assert first == second
    assert first.fingerprint == second.fingerprint


def test_other_weights_or_precision_are_another_extractor() -> None:
    made = [
        describe_extractor("resnet50", weights(value), precision, "crops")
        for value in (1.0, 2.0)
        for precision in (Precision.BF16, Precision.FP32)
    ]
    assert len({extractor.fingerprint for extractor in made}) == 4


def test_the_preprocessing_is_told_with_its_constants() -> None:
    told = describe_extractor("resnet50", weights(1.0), Precision.FP32, "crops").preprocessing
    for constant in ("224x224", "bilinear", "0.485", "0.229"):
        assert constant in told


@pytest.mark.parametrize(
    ("name", "told", "layer"),
    [
        ("resnet50:size=128", "crop to 128x128", "global_average_pool"),
        ("resnet50:norm=image", "each image to mean 0 and deviation 1", "global_average_pool"),
        ("resnet50:pool=lse", "mean (0.485, 0.456, 0.406)", "global_log_sum_exp_pool"),
        ("resnet50:pool=max", "grey to 3 channels", "global_max_pool"),
        ("simple_cnn", "grey, /255, mean (0.5,), std (0.25,)", "global_average_pool"),
        ("googlenet", "mean (0.5, 0.5, 0.5), std (0.5, 0.5, 0.5)", "global_average_pool"),
    ],
)
def test_every_option_of_a_name_is_told_and_counts(name: str, told: str, layer: str) -> None:
    plain, other = (
        describe_extractor(backbone, weights(1.0), Precision.BF16, "crops") for backbone in ("resnet50", name)
    )
    assert told in other.preprocessing
    assert other.layer == layer
    assert other.backbone == name
    assert other.fingerprint != plain.fingerprint


def test_two_ways_to_write_one_backbone_are_one_extractor() -> None:
    first, second = (
        describe_extractor(backbone, weights(1.0), Precision.BF16, "crops")
        for backbone in ("resnet50", "resnet50:pool=avg,size=224")
    )
    assert first == second


def test_an_unknown_backbone_has_no_extractor() -> None:
    with pytest.raises(WeightsError, match="resnet50"):
        describe_extractor("vgg", weights(1.0), Precision.FP32, "crops")
