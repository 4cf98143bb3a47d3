"""Augmented copies: train's classes become equal, no other split gets any, and each copy is always the same."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from synthetic_studies import study, write_lake, write_run

from classifiers.balance import Balance
from classifiers.tasks import get_task
from featurizers.backbones import build_untrained, get_backbone, load_weights, save_weights
from featurizers.crops import decode_png, encode_png
from featurizers.embedder import Embedder
from featurizers.extractor import Precision
from featurizers.finetuning.augmentation import Augmentation
from pipelines.acquisition import HoldOutBy, HoldOutSettings, hold_out
from pipelines.augmented_copies import CopiesConfig, CopyPlan, draw_copies
from pipelines.config import model_from
from pipelines.copy_rule import CopyRule
from pipelines.errors import ConfigError, LakeError
from pipelines.extract import ExtractConfig, extract
from pipelines.extract_target import FeaturesTarget
from pipelines.job import JobRecord
from pipelines.labelled import read_labelled
from pipelines.lake import Lake
from pipelines.stored_heads import load_head
from pipelines.train import TrainConfig, train

SMALL = "simple_cnn:filters=4-8,size=28"
#: Vazquez' own.
VAZQUEZ = Augmentation(rotate=10.0, zoom=(1.0, 1.2), flip=0.5)
NORMAL = {"normal": 1, "pneumonia": 0}
PNEUMONIA = {"normal": 0, "pneumonia": 1}
#: Neither: the task `binary` has no answer.
UNKNOWN = {"normal": 0, "pneumonia": -1}
#: Of train: five normal, eleven with pneumonia, two unknown; more in val and test.
TOLD = [
    ("train", NORMAL, 5),
    ("train", PNEUMONIA, 11),
    ("train", UNKNOWN, 2),
    ("val", PNEUMONIA, 3),
    ("val", NORMAL, 1),
]

Vectors = Mapping[tuple[str, int], np.ndarray]


def draw(first: int, told: Sequence[tuple[str, Mapping[str, int], int]]) -> list[dict[str, Any]]:
    """Studies, so many of each kind, with crops that are all different."""
    kinds = [(split, findings) for split, findings, number in told for _ in range(number)]
    rng = np.random.default_rng(first)
    return [
        study(
            first + number,
            split=split,
            findings=findings,
            crop=encode_png(np.asarray(rng.integers(0, 256, (8, 8), np.uint8).repeat(5, 0).repeat(5, 1))),
        )
        for number, (split, findings) in enumerate(kinds)
    ]


def studies_in(folder: Path) -> Lake:
    """Studies in three files."""
    rows = draw(0, [*TOLD, ("test", NORMAL, 2)])
    return write_lake(folder / "lake", [rows[:8], rows[8:14], rows[14:]])


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Studies only, to be written to."""
    return studies_in(tmp_path)


@pytest.fixture(scope="module")
def balanced(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, JobRecord]:
    """Studies, features and copies, not to be written to, and what the extraction told."""
    lake = studies_in(tmp_path_factory.mktemp("balanced"))
    return lake, run(lake)


def config(lake: Lake, **copies: object) -> ExtractConfig:
    values = {"lake": lake.folder.uri, "backbone": {"name": SMALL, "weights": "random"}, "precision": "fp32"}
    return model_from(ExtractConfig, values | {"copies": {"task": "binary"} | copies, "batch_size": 4})


def run(lake: Lake, **copies: object) -> JobRecord:
    return extract(config(lake, **copies))


def vectors(lake: Lake) -> Vectors:
    """By image and variant, each of which must be there once."""
    (extractor,) = lake.extractors()
    rows = lake.features(extractor).to_arrow(["image_id", "variant", "features"]).to_pylist()
    found = {(row["image_id"], row["variant"]): np.array(row["features"]) for row in rows}
    assert len(found) == len(rows)
    return found


def same(some: Vectors, others: Vectors) -> bool:
    return some.keys() == others.keys() and all(np.array_equal(vector, others[key]) for key, vector in some.items())


def train_counts(lake: Lake, task: str = "binary") -> list[int]:
    """Per class, how many rows of train a head learns from."""
    (extractor,) = lake.extractors()
    with read_labelled(lake, extractor, get_task(task)) as labelled:
        assert set(labelled.copies.values()) == {0}
        return np.bincount(labelled.train.targets).tolist()


# --- whole extractions -----------------------------------------------------------------------------------------------


def test_the_classes_of_train_become_equal_and_no_other_image_gets_copies(balanced: tuple[Lake, JobRecord]) -> None:
    lake, record = balanced
    assert train_counts(lake) == [11, 11]
    studies = {row["image_id"]: row for row in lake.studies.to_arrow(["image_id", "split", "findings"]).to_pylist()}
    variants: dict[str, list[int]] = {}
    for image_id, variant in vectors(lake):
        variants.setdefault(image_id, []).append(variant)
    assert variants.keys() == studies.keys()
    for image_id, numbers in variants.items():
        # Counted from 1, without a gap.
        assert sorted(numbers) == list(range(len(numbers)))
        row = studies[image_id]
        assert len(numbers) == 1 or (row["split"] == "train" and dict(row["findings"]) == NORMAL)
    assert (record.counts["images"], record.counts["copies"], record.counts["failed"]) == (24, 6, 0)
    assert re.search(r"(?m)^new copies +6$", str(record))
    assert "normal 11 of 5, pneumonia 11 of 11 images" in str(record)
    (job,) = lake.features(lake.extractors()[0]).folder.filesystem.glob(
        f"{lake.folder.path}/features/*/_jobs/*/run.json"
    )
    told = json.loads(Path(job).read_text())
    assert told["counts"]["copies"] == 6
    assert told["copies"]["train_rows"] == {"normal": 11, "pneumonia": 11}


def test_a_copy_has_the_vector_of_its_own_view_of_the_crop(balanced: tuple[Lake, JobRecord]) -> None:
    lake, _ = balanced
    found = vectors(lake)
    crops = {row["image_id"]: row["crop"] for row in lake.studies.to_arrow(["image_id", "crop"]).to_pylist()}
    embedder = Embedder(SMALL, load_weights(get_backbone(SMALL), "random"), precision=Precision.FP32)
    rule = CopyRule(VAZQUEZ, seed=0)
    copies = [key for key in found if key[1] > 0]
    views = [rule.copy(decode_png(crops[image_id]), image_id, variant) for image_id, variant in copies]
    for key, expected in zip(copies, embedder.embed(views), strict=True):
        np.testing.assert_allclose(found[key], expected, rtol=1e-4, atol=1e-5)
        assert not np.allclose(found[key], found[key[0], 0], rtol=1e-3)


@pytest.mark.usefixtures("spark")
def test_a_second_extraction_does_nothing_and_one_that_was_cut_short_goes_on(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = FeaturesTarget.commit
    # Four commits of crops, and one of copies.
    calls = iter([None, None, None, None, None, KeyboardInterrupt()])

    def interrupted(*arguments: object) -> None:
        if error := next(calls, None):
            raise error
        commit(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(FeaturesTarget, "commit", interrupted)
    # Classes that lie in all three files, so that there are several commits.
    write_run(lake.studies, [draw(100, [("train", NORMAL, 1), ("train", PNEUMONIA, 9)])])
    with pytest.raises(KeyboardInterrupt):
        extract(config(lake).model_copy(update={"chunk_images": 1}))
    partial = vectors(lake)
    copies = sum(variant > 0 for _, variant in partial)
    assert 0 < copies < 14
    assert run(lake).counts["copies"] == 14 - copies
    assert train_counts(lake) == [20, 20]
    whole = vectors(lake)
    assert same({key: whole[key] for key in partial}, partial)
    again = run(lake)
    assert (again.counts["images"], again.counts["copies"]) == (0, 0)
    assert "none: they are all there already" in str(again)
    assert same(vectors(lake), whole)


@pytest.mark.usefixtures("spark")
def test_copies_are_added_to_features_that_are_there_and_to_images_that_come_later(lake: Lake) -> None:
    run(lake, task=None)
    assert train_counts(lake) == [5, 11]
    assert run(lake).counts["images"] == 0
    before = vectors(lake)
    assert train_counts(lake) == [11, 11]
    write_run(lake.studies, [draw(100, [("train", NORMAL, 3), ("train", PNEUMONIA, 20), ("val", NORMAL, 2)])])
    without = run(lake, task=None)
    assert "none asked for; those here balance binary" in str(without)
    record = run(lake)
    # Eight normal images and the six copies that they had, against 31.
    assert record.counts["copies"] == 31 - 14
    assert train_counts(lake) == [31, 31]
    after = vectors(lake)
    assert same({key: after[key] for key in before}, before)


@pytest.mark.usefixtures("spark")
def test_a_damaged_crop_costs_no_other_copy_its_vector(lake: Lake) -> None:
    (file,) = Path(lake.studies.folder.runs()[0].path).glob("part-0.parquet")
    table = pq.read_table(file)
    crops = [b"damaged", *table["crop"].to_pylist()[1:]]
    pq.write_table(table.set_column(table.schema.get_field_index("crop"), "crop", [crops]), file)
    record = run(lake)
    lost = table["image_id"][0].as_py()
    assert re.search(rf"(?m)^no vector +\d \(damaged_crop \d\): {lost}$", str(record))
    plan = CopyPlan.make(lake, lake.features(lake.extractors()[0]).folder, config(lake).copies)
    expected = {(image_id, variant) for image_id, n in plan.copies.items() for variant in range(1, n + 1)}
    assert {key for key in vectors(lake) if key[1]} == {key for key in expected if key[0] != lost}


def test_copies_of_two_kinds_are_refused_before_any_work(balanced: tuple[Lake, JobRecord]) -> None:
    lake, _ = balanced
    (folder,) = (lake.features(extractor).folder for extractor in lake.extractors())
    before = vectors(lake)
    for copies, told in (
        ({"seed": 1}, "copies.seed: 0 there, 1 here"),
        ({"rotate": 5.0}, "copies.rotate: 10.0 there, 5.0 here"),
        ({"balance": "up_sample"}, "copies.balance: over_sample there, up_sample here"),
    ):
        with pytest.raises(LakeError, match="another lake") as caught:
            run(lake, **copies)
        assert told in str(caught.value)
        assert folder.uri in str(caught.value)
    assert same(vectors(lake), before)


def larger_by_turns(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Films of which no two are of one size."""
    return [row | {"width": 1000 + 10 * number, "height": 1000 + 10 * number} for number, row in enumerate(rows)]


def save_tuned(lake: Lake, hold_out: object) -> str:
    """A fine-tuned backbone whose card tells a hold-out; its location."""
    run, spec = lake.backbones("tuned").new_run(), get_backbone(SMALL)
    Path(run.path).mkdir(parents=True)
    save_weights(Path(run.path) / "backbone.safetensors", spec, build_untrained(spec).state_dict())
    run.write_json("card.json", {"hold_out": hold_out})
    run.commit()
    return "lake://backbones/tuned"


@pytest.mark.usefixtures("spark")
def test_classes_are_equal_for_heads_of_a_backbone_that_held_images_out(tmp_path: Path) -> None:
    told = [("train", NORMAL, 12), ("train", PNEUMONIA, 30), ("val", NORMAL, 2), ("val", PNEUMONIA, 2)]
    rows = larger_by_turns(draw(0, told))
    lake = write_lake(tmp_path / "lake", [rows])
    held_out = hold_out(lake, HoldOutSettings(HoldOutBy.SIZE, 0.25))
    values = {
        "lake": lake.folder.uri,
        "backbone": {"weights": save_tuned(lake, held_out.as_dict())},
        "precision": "fp32",
        "copies": {"task": "binary"},
    }
    summary = str(extract(model_from(ExtractConfig, values)))
    assert "without those that the backbone held out (hold_out.by=size, share 0.25)" in summary
    copied = {image_id for image_id, variant in vectors(lake) if variant}
    assert copied
    assert not copied & set(held_out.image_ids.to_pylist())
    train(TrainConfig(lake=lake.folder.uri, task="binary", head="logistic", resamples=0))
    counts = load_head(lake, "binary/logistic").class_counts["train"].per_class
    ill = np.array([row["image_id"] for row in rows if row["findings"] == PNEUMONIA and row["split"] == "train"])
    assert counts == dict.fromkeys(("normal", "pneumonia"), 30 - int(held_out.holds(ill).sum()))


# --- the plan, without Spark -----------------------------------------------------------------------------------------


def test_what_can_not_be_balanced_is_told(tmp_path: Path) -> None:
    lake = write_lake(tmp_path / "lake", [draw(0, [("train", NORMAL, 3), ("val", PNEUMONIA, 3)])])
    with pytest.raises(LakeError, match=r"copies\.task=binary: no image of the train split shows pneumonia"):
        CopyPlan.make(lake, lake.features("any").folder, CopiesConfig(task="binary"))


def test_a_hold_out_that_this_lake_can_not_have_is_told(lake: Lake) -> None:
    settings = HoldOutSettings(HoldOutBy.SIZE, 0.2)
    with pytest.raises(LakeError, match=r"copies\.task=binary .*too much of one size.*copies\.task=null"):
        CopyPlan.make(lake, lake.features("any").folder, CopiesConfig(task="binary"), settings)


def test_copies_of_images_that_are_held_out_later_stay_known(tmp_path: Path) -> None:
    lake = write_lake(tmp_path / "lake", [larger_by_turns(draw(0, [("train", NORMAL, 12), ("train", PNEUMONIA, 30)]))])
    folder, settings = lake.features("any").folder, CopiesConfig(task="binary")
    before = CopyPlan.make(lake, folder, settings)
    before.remember(folder)
    held_out = HoldOutSettings(HoldOutBy.SIZE, 0.25)
    after = CopyPlan.make(lake, folder, settings, held_out)
    assert all(after.copies[image_id] >= number for image_id, number in before.copies.items())
    assert set(before.copies) & set(hold_out(lake, held_out).image_ids.to_pylist())
    assert after.rows["normal"] == after.rows["pneumonia"]
    after.remember(folder)
    assert CopyPlan.make(lake, folder, settings, held_out) == after


@pytest.mark.parametrize("copies", [{"zoom": [1.2, 1.0]}, {"flip": 2}, {"balance": "smote"}, {"seed": -1}])
def test_settings_without_sense_are_refused(lake: Lake, copies: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"copies.*{next(iter(copies))}"):
        config(lake, **copies)


def test_the_plan_is_the_same_whatever_the_order_of_the_studies(lake: Lake, tmp_path: Path) -> None:
    rows = draw(0, [*TOLD, ("test", NORMAL, 2)])
    other = write_lake(tmp_path / "other", [rows[::-1]])
    plans = [CopyPlan.make(each, each.features("any").folder, CopiesConfig(task="binary")) for each in (lake, other)]
    assert plans[0] == plans[1]
    another = CopyPlan.make(lake, lake.features("any").folder, CopiesConfig(task="binary", seed=1))
    assert another.copies != plans[0].copies


@pytest.mark.parametrize("balance", ["over_sample", "up_sample"])
def test_rare_labels_are_shown_by_more_rows_and_the_plan_stays(tmp_path: Path, balance: str) -> None:
    rare = {"Hernia": 1, "Effusion": 0, "Mass": 0}
    told = [
        ("train", rare, 3),
        ("train", rare | {"Effusion": 1}, 2),
        ("train", {"Effusion": 1, "Hernia": 0, "Mass": 0}, 40),
    ]
    told += [("train", {"Mass": 1, "Hernia": -1}, 12), ("test", rare, 9)]
    findings = get_task("chestxray14").findings
    rows = draw(0, told)
    for row in rows:
        row["findings"] = {name: row["findings"].get(name, 0) for name in findings}
    lake = write_lake(tmp_path / "lake", [rows])
    folder = lake.features("any").folder
    settings = CopiesConfig.model_validate({"task": "chestxray14", "balance": balance})
    plan = CopyPlan.make(lake, folder, settings)
    assert plan.images["Hernia"] == 5
    assert plan.rows["Hernia"] > 5
    assert plan.rows["Hernia"] / plan.rows["Effusion"] > 5 / 42
    plan.remember(folder)
    assert CopyPlan.make(lake, folder, settings) == plan


@given(
    classes=st.lists(st.integers(1, 40), min_size=2, max_size=4),
    had=st.integers(0, 3),
    seed=st.integers(0, 2**31),
)
def test_every_class_has_as_many_rows_as_the_largest_and_no_copy_is_lost(
    classes: list[int], had: int, seed: int
) -> None:
    targets = np.repeat(np.arange(len(classes)), classes)
    least = np.random.default_rng(seed).integers(0, 1 + had, len(targets))
    copies = draw_copies(targets, least, Balance.OVER_SAMPLE, seed)
    assert (copies >= least).all()
    rows = Counter(np.repeat(targets, 1 + copies).tolist())
    before = Counter(np.repeat(targets, 1 + least).tolist())
    assert set(rows.values()) == {max(before.values())}
    np.testing.assert_array_equal(copies, draw_copies(targets, least, Balance.OVER_SAMPLE, seed))


def test_a_view_depends_on_image_variant_and_seed_alone() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30), np.uint8)
    rule = CopyRule(VAZQUEZ, seed=0)
    view = rule.copy(pixels, "a", 1)
    assert view.shape == pixels.shape
    assert view.dtype == np.uint8
    rule.copy(pixels, "b", 1)
    np.testing.assert_array_equal(view, rule.copy(pixels, "a", 1))
    for other in (rule.copy(pixels, "a", 2), rule.copy(pixels, "b", 1), CopyRule(VAZQUEZ, 1).copy(pixels, "a", 1)):
        assert (other != view).any()
