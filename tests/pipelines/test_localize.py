"""Localizing: places that are right, on the original; nothing twice; what can't be had told before any work starts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from boxed_lake import BACKBONE, SHOWN, TASK, write_boxed_lake
from pyspark.sql import SparkSession

from classifiers.errors import HeadError
from featurizers.backbones import BACKBONES, build_untrained, get_backbone
from featurizers.crops import CropBox, decode_png
from featurizers.embedder import Embedder, Viewed
from featurizers.errors import FeaturizerError
from featurizers.saliency import Method
from pipelines.config import merge, model_from
from pipelines.crop_pass import CropTarget
from pipelines.errors import ConfigError, LakeError, SourceError
from pipelines.extract import ExtractConfig, extract
from pipelines.job import JobRecord
from pipelines.lake import Lake
from pipelines.localization_reports.checks import from_stage_on
from pipelines.localize import LocalizeConfig, localize
from pipelines.localize_config import WeightsConfig
from pipelines.localizer import make_localizer
from pipelines.rebuild import rebuild_extractor
from pipelines.stored_heads import load_head
from pipelines.train import TrainConfig, train

pytestmark = pytest.mark.usefixtures("spark")
TEST_IMAGES = 48


@pytest.fixture(scope="module")
def headed_lake(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Path:
    """A lake with squares and bars, features and heads of every kind; not to be written to."""
    folder = tmp_path_factory.mktemp("localize")
    lake = folder / "lake"
    write_boxed_lake(lake)
    (folder / "squares.yaml").write_text(TASK)
    extract(ExtractConfig(lake=str(lake), backbone=BACKBONE, precision="fp32"))
    params = {"mlp": {"hidden": [16], "learning_rate": 0.01}, "xgboost": {"n_estimators": 40, "colsample_bytree": 1.0}}
    for head in ("logistic", "mlp", "xgboost", "majority"):
        given = params.get(head, {})
        train(TrainConfig(lake=str(lake), task=str(folder / "squares.yaml"), head=head, params=given, resamples=0))
    return lake


@pytest.fixture
def lake(headed_lake: Path, tmp_path: Path) -> Path:
    """The same, to be written to."""
    copy = tmp_path / "lake"
    shutil.copytree(headed_lake, copy, ignore=shutil.ignore_patterns("localizations"))
    return copy


def config(lake: Path, **settings: Any) -> LocalizeConfig:
    given = {"lake": lake, "head": "squares/logistic", "report.checks": 0, "report.per_class": 0, **settings}
    return model_from(LocalizeConfig, merge(None, [f"{key}={value}" for key, value in given.items()]))


def run(lake: Path, **settings: Any) -> JobRecord:
    return localize(config(lake, **settings))


def table(lake: Path, record: JobRecord) -> pd.DataFrame:
    there = Lake.open(str(lake)).localizations(record.extra["localizer"])
    return there.to_arrow(there.schema.names).to_pandas()


def figures(lake: Path, record: JobRecord) -> dict[str, Any]:
    folder = Lake.open(str(lake)).localizations(record.extra["localizer"]).folder
    return (folder / "_jobs" / record.id).read_json("figures.json")


@pytest.mark.parametrize(
    ("head", "method"),
    [("logistic", "cam"), ("logistic", "grad_cam"), ("mlp", "grad_cam"), ("xgboost", "shap"), ("mlp", "occlusion")],
)
def test_places_are_where_the_findings_are_drawn(headed_lake: Path, head: str, method: str) -> None:
    """Far better than a box in the middle and the crop's own, in fractions of the original and not of the crop."""
    record = run(headed_lake, head=f"squares/{head}", method=method, **{"report.resamples": 50})
    told = figures(headed_lake, record)
    # A tree learns darkness from what bright features lack, which TreeSHAP can't place: see featurizers/saliency.py.
    least = {"Mass": 0.5, "Effusion": 0.3 if method == "shap" else 0.5}
    for name, expected in least.items():
        pointing = {finder: told["by_class"][name][finder]["pointing"] for finder in ("head", "centre box", "lung box")}
        assert pointing["head"]["low"] > max(pointing["centre box"]["value"], pointing["lung box"]["value"])
        assert pointing["head"]["value"] > expected
    rows = table(headed_lake, record)
    assert len(rows) == TEST_IMAGES * 2
    assert not rows.duplicated(["image_id", "class"]).any()
    places = np.array([[box[side] for side in SHOWN] for boxes in rows["boxes"] for box in boxes])
    for number, side in enumerate(SHOWN):
        low, high = (SHOWN["left"], SHOWN["right"]) if side in ("left", "right") else (SHOWN["top"], SHOWN["bottom"])
        assert places[:, number].min() >= low - 1e-9
        assert places[:, number].max() <= high + 1e-9


def test_the_default_method_suits_the_head(headed_lake: Path) -> None:
    for head, method in (("logistic", "cam"), ("mlp", "grad_cam"), ("xgboost", "shap")):
        assert f"maps        {method}" in str(run(headed_lake, head=f"squares/{head}"))


def test_rows_are_those_that_the_libraries_give_in_one_process(headed_lake: Path) -> None:
    record = run(headed_lake, split="val")
    there = Lake.open(str(headed_lake))
    trained = load_head(there, "squares/logistic")
    extractor, weights = rebuild_extractor(there, trained.extractor, WeightsConfig())
    embedder = Embedder(extractor.backbone, weights, precision=extractor.precision, batch_size=3)
    localizer = make_localizer(trained, trained.fingerprint, classes=(), method=None, level=180 / 255)
    rows = table(headed_lake, record).set_index(["image_id", "class"])
    studies = there.studies.to_arrow(["image_id", "split", "crop"]).to_pylist()
    pngs = [(study["image_id"], study["crop"]) for study in studies if study["split"] == "val"]
    shown, compared = CropBox(**SHOWN), 0
    for viewed in embedder.view_stream(pngs, decode_png):
        located = localizer.locate(embedder, viewed)
        for image_id, probabilities, spots in zip(
            viewed.keys, located.scores.probabilities, localizer.hotspots(located.maps), strict=True
        ):
            for name, probability, spot in zip(("Mass", "Effusion"), probabilities, spots, strict=True):
                row = rows.loc[(image_id, name)]
                assert row["probability"] == pytest.approx(probability, abs=1e-3)
                assert spot.peak is not None
                np.testing.assert_allclose(
                    [row["peak"]["x"], row["peak"]["y"]], shown.to_original(spot.peak), atol=0.02
                )
                compared += 1
    assert compared == 2 * len(pngs) > 0


def test_a_second_run_does_nothing_and_another_split_only_what_is_missing(lake: Path) -> None:
    first = run(lake)
    before = sorted((lake / "localizations").rglob("run=*/*.parquet"))
    again = run(lake)
    assert "none: all are localized already" in str(again)
    assert before == sorted((lake / "localizations").rglob("run=*/*.parquet"))
    every = run(lake, split="all")
    assert every.extra["localizer"] == first.extra["localizer"]
    assert every.counts["images"] == 240 - TEST_IMAGES
    rows = table(lake, every)
    assert len(rows) == 240 * 2
    assert not rows.duplicated(["image_id", "class"]).any()


def test_a_killed_job_goes_on_where_it_was(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Iterator[BaseException | None] = iter([None, KeyboardInterrupt()])
    commit = CropTarget.commit

    def interrupted(*arguments: Any) -> None:
        if error := next(calls, None):
            raise error
        commit(*arguments)

    monkeypatch.setattr(CropTarget, "commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(lake, split="all", chunk_images=1)
    (folder,) = (lake / "localizations").iterdir()
    partial = pq.read_table(str(folder)).num_rows
    assert 0 < partial < 480
    rows = table(lake, run(lake, split="all", chunk_images=1))
    assert len(rows) == 480
    assert not rows.duplicated(["image_id", "class"]).any()


def test_only_the_classes_that_are_asked_for(headed_lake: Path) -> None:
    record = run(headed_lake, classes="[Effusion]")
    assert set(table(headed_lake, record)["class"]) == {"Effusion"}
    assert record.extra["localizer"] != run(headed_lake).extra["localizer"]


def test_an_image_without_crop_is_told_and_costs_no_other_its_place(lake: Path) -> None:
    file = next((lake / "studies").glob("run=*/part-0.parquet"))
    rows = pq.read_table(file)
    crops, tests = rows["crop"].to_pylist(), [n for n, split in enumerate(rows["split"].to_pylist()) if split == "test"]
    crops[tests[0]], crops[tests[1]] = None, b"damaged"
    lung_boxes = rows["lung_box"].to_pylist()
    lung_boxes[tests[2]] = None
    rows = rows.set_column(rows.schema.get_field_index("crop"), "crop", [crops])
    places = pa.array(lung_boxes, rows.schema.field("lung_box").type)
    rows = rows.set_column(rows.schema.get_field_index("lung_box"), "lung_box", places)
    pq.write_table(rows, file, row_group_size=20)
    record = run(lake, **{"report.per_class": 50})
    assert "damaged_crop 3" in str(record)
    assert len(table(lake, record)) == 2 * (TEST_IMAGES - 3)
    assert "none: all are localized already" in str(run(lake))
    lost = sum(len(boxes) > 0 for n, boxes in enumerate(rows["boxes"].to_pylist()) if n in tests[:2])
    page = (Path(record_folder(lake, record)) / "report.html").read_text()
    assert f"{lost} images with such boxes have no map" in page


def test_boxes_of_a_file_count_instead_of_the_studies(lake: Path, tmp_path: Path) -> None:
    """By id or by uri, in fractions or in pixels of the original: the same boxes give the same figures."""
    studies = [
        (study, box)
        for study in Lake.open(str(lake)).studies.to_arrow(["image_id", "uri", "boxes"]).to_pylist()
        for box in study["boxes"]
    ]
    expected = figures(lake, run(lake))
    fractions = pd.DataFrame([{"image": study["image_id"], **box} for study, box in studies])
    fractions.to_csv(tmp_path / "fractions.csv", index=False)
    pixels = pd.DataFrame(
        [
            {
                "image": study["uri"],
                "finding": box["finding"],
                "x": 1000 * box["left"],
                "y": 500 * box["top"],
                "width": 1000 * (box["right"] - box["left"]),
                "height": 500 * (box["bottom"] - box["top"]),
            }
            for study, box in studies
        ]
    )
    pixels.to_csv(tmp_path / "pixels.csv", index=False)
    for name in ("fractions", "pixels"):
        found = figures(lake, run(lake, boxes=tmp_path / f"{name}.csv"))
        assert found["by_class"].keys() == expected["by_class"].keys()
        for finding, told in expected["by_class"].items():
            assert found["by_class"][finding]["boxes"] == told["boxes"]
            for measure in ("pointing", "iobb_accuracy"):
                assert found["by_class"][finding]["head"][measure] == told["head"][measure]


def test_images_without_boxes_are_counted_and_not_judged(lake: Path, tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text(
        "image,finding,left,top,right,bottom\n"
        + next(
            f"{study['image_id']},Mass,0.2,0.3,0.4,0.5\n"
            for study in Lake.open(str(lake)).studies.to_arrow(["image_id", "split"]).to_pylist()
            if study["split"] == "test"
        )
    )
    record = run(lake, boxes=tmp_path / "one.csv", **{"report.per_class": 2})
    told = figures(lake, record)
    assert list(told["by_class"]) == ["Mass"]
    assert told["by_class"]["Mass"]["images"] == 1
    # One patient has no interval.
    assert told["by_class"]["Mass"]["head"]["pointing"]["low"] is None
    page = (Path(record_folder(lake, record)) / "report.html").read_text()
    assert f"{TEST_IMAGES - 1:,} images without an annotated box" in page
    nothing = run(lake, split="val", boxes=tmp_path / "one.csv")
    assert "no figures: None of the 48 localized images has an annotated box" in str(nothing)
    # What a job was told lies beside what it wrote, whether it had to make maps or not.
    assert (Path(record_folder(lake, run(lake))) / "run.json").exists()


def record_folder(lake: Path, record: JobRecord) -> str:
    return f"{lake}/localizations/localizer={record.extra['localizer']}/_jobs/{record.id}"


def test_the_report_checks_the_maps_and_shows_images(lake: Path) -> None:
    record = run(lake, head="squares/mlp", **{"report.per_class": 4, "report.checks": 8, "report.resamples": 50})
    folder = Path(record_folder(lake, record))
    checks = json.loads((folder / "figures.json").read_text())["checks"]
    assert checks["images"] == 8
    by_change = {each["changed"]: each["correlation"]["value"] for each in checks["likenesses"]}
    assert set(by_change) == {
        "the backbone's last stage untrained",
        "the whole backbone untrained",
        "the head's weights dealt to other features",
        "the head fitted on shuffled labels",
    }
    assert all(0 <= value <= 1 for value in by_change.values())
    # The squares are what the head looks at: without them it changes its mind, whatever else is there.
    hottest, random, centre = (each["deletion_area"]["value"] for each in checks["erasures"])
    assert hottest < min(random, centre)
    for each in checks["erasures"]:
        assert each["deletion"][0] == pytest.approx(each["insertion"][-1])
        assert each["deletion"][-1] == pytest.approx(each["insertion"][0])
    overlays = sorted((folder / "overlays").glob("*.png"))
    assert len(overlays) == 8
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png") >= 16
    cases = pd.read_csv(folder / "cases.csv")
    assert (cases["true_boxes"] == 1).all()
    assert json.loads((folder / "run.json").read_text())["counts"]["images"] == TEST_IMAGES


def test_an_image_that_is_named_is_shown(lake: Path) -> None:
    image_id = next(
        study["image_id"]
        for study in Lake.open(str(lake)).studies.to_arrow(["image_id", "split"]).to_pylist()
        if study["split"] == "test"
    )
    record = run(lake, **{"report.images": f"[{image_id[:16]}]"})
    (overlay,) = Path(record_folder(lake, record), "overlays").glob("*.png")
    assert overlay.stem.endswith(image_id[:12])
    with pytest.raises(ConfigError, match=r"no localized images of this split begin with 'nobody'"):
        run(lake, **{"report.images": "[nobody]"})


@pytest.mark.parametrize("number", [1, 3, 4])
def test_the_gallery_has_as_many_misses_as_hits_where_there_are(headed_lake: Path, number: int) -> None:
    record = run(headed_lake, **{"report.per_class": number})
    cases = pd.read_csv(Path(record_folder(headed_lake, record)) / "cases.csv")
    names = [each.stem for each in Path(record_folder(headed_lake, record), "overlays").glob("*.png")]
    for name, own in cases.groupby("class"):
        hits, misses = own["is_pointed_at"].sum(), (~own["is_pointed_at"]).sum()
        shown = {side: sum(f"-{name}-{side}-" in each for each in names) for side in ("hit", "miss")}
        assert shown["hit"] + shown["miss"] == min(number, hits + misses)
        assert shown["hit"] == min(hits, max(number - number // 2, number - misses))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"classes": "[Nodule]"}, ConfigError, r"no class 'Nodule'.*Mass, Effusion"),
        ({"head": "squares/majority"}, HeadError, "majority looks at no feature"),
        ({"head": "squares/none"}, LakeError, "no head 'squares/none'"),
        ({"head": "squares/xgboost", "method": "cam"}, ConfigError, "method=cam is not for xgboost.*shap, occlusion"),
        ({"head": "squares/logistic", "method": "shap"}, ConfigError, "method=shap is not for logistic"),
        ({"boxes": "nowhere.csv"}, SourceError, r"boxes='nowhere.csv' can't be read"),
        ({"device": "cuda:99"}, FeaturizerError, "cuda:99"),
    ],
)
def test_what_can_not_be_had_is_told_before_any_work(
    headed_lake: Path, settings: dict[str, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(headed_lake, **settings)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("image,finding,left,top\na,Mass,0,0\n", "has no column right, bottom"),
        ("image,finding,left,top,right,bottom\na,Mass,0.5,0,0.4,1\n", r"line 2.*left < right"),
        ("image,finding,x,y,width,height\na,Mass,5,5,0,9\n", r"line 2.*width and height above 0"),
        ("image,finding,left,top,right,bottom\na,Mass,0,0,one,1\n", "hold no box"),
        ("image,finding,left,top,right,bottom\na,Hernia,0,0,1,1\n", "has boxes of Hernia.*Mass, Effusion"),
        ("image,finding,left,top,right,bottom\na,Mass,0,0,1,1\n", "names no image of the lake"),
    ],
)
def test_a_file_that_holds_no_boxes_is_told(headed_lake: Path, tmp_path: Path, rows: str, message: str) -> None:
    (tmp_path / "boxes.csv").write_text(rows)
    # Of a localizer that nobody else asks for: nothing is made before the file is understood.
    settings = {"boxes": tmp_path / "boxes.csv", "level": 0.123}
    before = set((headed_lake / "localizations").glob("*/run=*"))
    with pytest.raises(SourceError, match=message):
        run(headed_lake, **settings)
    assert set((headed_lake / "localizations").glob("*/run=*")) == before


def test_an_image_that_two_data_sets_call_the_same_is_named_by_its_id(lake: Path, tmp_path: Path) -> None:
    for number, file in enumerate(sorted((lake / "studies").glob("run=*/*.parquet"))):
        rows = pq.read_table(file)
        uris = rows["uri"].to_pylist()
        uris[0] = "images/1.png" if number < 2 else uris[0]
        pq.write_table(rows.set_column(rows.schema.get_field_index("uri"), "uri", [uris]), file)
    (tmp_path / "boxes.csv").write_text("image,finding,left,top,right,bottom\nimages/1.png,Mass,0,0,1,1\n")
    with pytest.raises(SourceError, match=r"line 2 of boxes=.*several data sets"):
        run(lake, boxes=tmp_path / "boxes.csv")


def test_a_split_without_images_is_told(lake: Path) -> None:
    for file in (lake / "studies").glob("run=*/*.parquet"):
        rows = pq.read_table(file)
        pq.write_table(rows.filter(np.array(rows["split"].to_pylist()) != "test"), file)
    with pytest.raises(LakeError, match=r"no image of the split test. It has: train 144, val 48"):
        run(lake)


def test_shap_is_refused_where_a_map_has_negative_places(headed_lake: Path) -> None:
    trained = load_head(Lake.open(str(headed_lake)), "squares/xgboost")
    localizer = make_localizer(trained, "h", classes=(), method=None, level=0.5)
    maps = torch.full((1, 32, 8, 8), -0.1)
    seen = Viewed(["a"], np.zeros((1, 64, 64), np.uint8), np.zeros((1, 32), np.float32), maps, [], [])
    with pytest.raises(FeaturizerError, match=r"negative places.*method=occlusion"):
        localizer.locate(None, seen)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [*BACKBONES, "resnet50:transition=64"])
def test_a_stage_is_all_that_stands_behind_its_beginning(name: str) -> None:
    spec = get_backbone(name)
    state = build_untrained(spec).state_dict()
    last = from_stage_on(state, spec.stages[-1])
    assert list(state)[-len(last) :] == list(last)
    assert any(value.ndim == 4 for value in last.values())


def test_a_localizer_is_what_decides_the_places(headed_lake: Path) -> None:
    trained = load_head(Lake.open(str(headed_lake)), "squares/logistic")

    def fingerprint(classes: tuple[str, ...] = (), method: Method | None = None, level: float = 0.5) -> str:
        return make_localizer(trained, "h", classes=classes, method=method, level=level).rules.fingerprint

    assert fingerprint() == fingerprint(("Effusion", "Mass")) == fingerprint(method=Method.CAM)
    others = {fingerprint(("Mass",)), fingerprint(method=Method.GRAD_CAM), fingerprint(level=0.6), fingerprint()}
    assert len(others) == 4
