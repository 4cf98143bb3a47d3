"""Scoring: every image once for every head, from features or straight from files, and nothing lost or told."""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from dicom_files import chest_dicom
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyspark.sql import DataFrame
from small_backbone import NAME, UNTRAINED

from classifiers.errors import HeadError
from featurizers.backbones import build_untrained, get_backbone
from featurizers.errors import FeaturizerError
from featurizers.phantoms import draw_phantom
from pipelines.audit import AuditConfig, audit
from pipelines.config import model_from
from pipelines.errors import ConfigError, LakeError, SourceError
from pipelines.extract import ExtractConfig, extract
from pipelines.job import JobRecord
from pipelines.lake import Lake
from pipelines.locate import locate
from pipelines.pseudonyms import KEY_VARIABLE
from pipelines.score import score
from pipelines.score_config import ScoreConfig
from pipelines.scoring import ANSWERS, answers
from pipelines.stored_heads import load_head
from pipelines.tables import FEATURES, PREDICTIONS, Table
from pipelines.train import TrainConfig, train
from tests.conftest import PHANTOM_STUDIES

pytestmark = pytest.mark.usefixtures("spark")

KEY = "pleura-test-key-0123456789abcdef"
#: In paths and headers; must be in no byte that scoring writes.
PLANTED = "QXPLANTED"
PIXELS = draw_phantom(3, size=(96, 96)).pixels


@pytest.fixture(scope="module")
def trained_lake(extracted_lake: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with heads on float32 features, and one on bfloat16's; not to be written to."""
    lake = tmp_path_factory.mktemp("scored") / "a lake"
    shutil.copytree(extracted_lake, lake, ignore=shutil.ignore_patterns("heads", "predictions"))
    (bf16,) = Lake.open(str(lake)).extractors()
    extract(ExtractConfig(lake=str(lake), backbone=UNTRAINED, precision="fp32"))
    (fp32,) = set(Lake.open(str(lake)).extractors()) - {bf16}
    for task, head, name, extractor in (
        ("three_class", "logistic", "logistic", fp32),
        ("binary", "mlp", "mlp", fp32),
        ("binary", "logistic", "bf16", bf16),
    ):
        train(TrainConfig(lake=str(lake), task=task, head=head, name=name, extractor=extractor))
    return lake


@pytest.fixture
def lake(trained_lake: Path, tmp_path: Path) -> Path:
    """The same, to be written to."""
    return Path(shutil.copytree(trained_lake, tmp_path / "lake"))


def config(lake: Path, *heads: str, **settings: object) -> ScoreConfig:
    return model_from(ScoreConfig, {"lake": str(lake), "heads": list(heads)} | settings)


def predictions(lake: Path, head: str) -> dict[str, dict[str, object]]:
    """By image id, each of which must be there once."""
    there = Lake.open(str(lake))
    rows = there.predictions(load_head(there, head).fingerprint).to_arrow(PREDICTIONS.names).to_pylist()
    found = {row["image_id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def folder_of(lake: Path, head: str, record: JobRecord) -> Path:
    """What a job left beside the head's predictions."""
    return lake / "predictions" / f"head={load_head(Lake.open(str(lake)), head).fingerprint}" / "_jobs" / record.id


def table(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(file.read_text())))


def expected(lake: Path, head: str) -> dict[str, np.ndarray]:
    there = Lake.open(str(lake))
    trained = load_head(there, head)
    vectors = there.features(trained.extractor).to_arrow(["image_id", "features"])
    features = np.array(vectors["features"].to_pylist(), np.float32)
    return dict(zip(vectors["image_id"].to_pylist(), trained.score(features).probabilities, strict=True))


# --- from features ---------------------------------------------------------------------------------------------------


def test_several_heads_answer_in_one_pass_what_each_would_alone(lake: Path) -> None:
    record = score(config(lake, "three_class/logistic", "binary/mlp", "three_class/logistic"))
    assert record.counts["images"] == PHANTOM_STUDIES
    for head in ("three_class/logistic", "binary/mlp"):
        rows, probabilities = predictions(lake, head), expected(lake, head)
        assert set(rows) == set(probabilities)
        classes = list(load_head(Lake.open(str(lake)), head).task.classes)
        for image_id, row in rows.items():
            told, decided = dict(row["probabilities"]), dict(row["decisions"])
            assert row["task"] == head.partition("/")[0]
            assert list(told) == list(decided) == classes
            np.testing.assert_allclose(list(told.values()), probabilities[image_id], atol=1e-5)
            assert sum(decided.values()) == 1
    assert f"new predictions  {PHANTOM_STUDIES} images by 2 heads" in str(record)
    again = score(config(lake, "three_class/logistic", "binary/mlp"))
    assert "none: every image with features is scored already" in str(again)
    assert not folder_of(lake, "binary/mlp", again).exists()
    assert not list(lake.glob("_staging-*"))


def test_augmented_copies_are_no_images(lake: Path) -> None:
    there = Lake.open(str(lake))
    features = there.features(load_head(there, "binary/mlp").extractor)
    copies = features.to_arrow(FEATURES.names).slice(0, 7).to_pylist()
    features.append_arrow(pa.Table.from_pylist([row | {"variant": 1} for row in copies], FEATURES))
    assert score(config(lake, "binary/mlp")).counts["images"] == PHANTOM_STUDIES
    assert len(predictions(lake, "binary/mlp")) == PHANTOM_STUDIES


def test_what_the_screen_and_the_csv_files_tell_is_what_the_table_holds(lake: Path) -> None:
    record = score(config(lake, "three_class/logistic"))
    rows = predictions(lake, "three_class/logistic")
    job = folder_of(lake, "three_class/logistic", record)
    summary = {row["class"]: row for row in table(job / "summary.csv")}
    assert list(summary) == ["normal", "viral", "bacterial"]
    for name, told in summary.items():
        values = [dict(row["probabilities"])[name] for row in rows.values()]
        decided = sum(dict(row["decisions"])[name] for row in rows.values())
        assert (int(told["images"]), int(told["decided"])) == (PHANTOM_STUDIES, decided)
        assert float(told["mean"]) == pytest.approx(np.mean(values), rel=1e-4)
        assert float(told["q50"]) == pytest.approx(np.quantile(values, 0.5, method="inverted_cdf"), rel=1e-4)
        assert re.search(rf"^  {name} +{decided} +{PHANTOM_STUDIES} ", str(record), re.MULTILINE)
    images = {row["image_id"]: row for row in table(job / "predictions.csv")}
    uris = {
        row["image_id"]: row["uri"] for row in Lake.open(str(lake)).studies.to_arrow(["image_id", "uri"]).to_pylist()
    }
    assert set(images) == set(rows)
    for image_id, told in images.items():
        assert told["uri"] == uris[image_id]
        for name, value in rows[image_id]["probabilities"]:
            assert float(told[f"probability {name}"]) == pytest.approx(value, abs=1e-6)
            assert told[f"decided {name}"] == str(int(dict(rows[image_id]["decisions"])[name]))
    assert "research use only" in str(record)


def test_what_a_head_was_told_to_do_with_its_answers_is_done_and_said(lake: Path) -> None:
    for calibration in ("none", "temperature"):
        settings = {"task": "binary", "head": "logistic", "name": calibration, "calibration": calibration}
        threshold = {"threshold": "fixed", "threshold_value": 0.2}
        extractor = load_head(Lake.open(str(lake)), "binary/mlp").extractor
        train(TrainConfig.model_validate({"lake": str(lake), "extractor": extractor} | settings | threshold))
    record = score(config(lake, "binary/none", "binary/temperature"))
    assert "NOT calibrated" in str(record).split("binary/temperature", 1)[0]
    for name in ("none", "temperature"):
        for row in predictions(lake, f"binary/{name}").values():
            assert dict(row["decisions"])["pneumonia"] == (dict(row["probabilities"])["pneumonia"] >= 0.2)
        told = {row["class"]: row for row in table(folder_of(lake, f"binary/{name}", record) / "summary.csv")}
        assert (told["pneumonia"]["rule"], told["pneumonia"]["threshold"]) == ("fixed", "0.2")
        calibrator = load_head(Lake.open(str(lake)), f"binary/{name}").calibrator
        assert {row: told[row]["calibration"] for row in told} == {row: calibrator.method_of(row) for row in told}


def test_no_csv_of_more_images_than_were_asked_for(lake: Path) -> None:
    record = score(config(lake, "binary/mlp", csv_images=PHANTOM_STUDIES - 1))
    assert not (folder_of(lake, "binary/mlp", record) / "predictions.csv").exists()
    assert (folder_of(lake, "binary/mlp", record) / "summary.csv").exists()
    assert "no predictions.csv: 90 images, more than csv_images=89" in str(record)


def test_a_head_that_has_answered_is_not_asked_again_for_the_sake_of_another(lake: Path) -> None:
    score(config(lake, "binary/mlp"))
    before = predictions(lake, "binary/mlp")
    record = score(config(lake, "binary/mlp", "three_class/logistic"))
    assert predictions(lake, "binary/mlp") == before
    assert len(predictions(lake, "three_class/logistic")) == PHANTOM_STUDIES
    assert len(record.runs) == 1


def test_a_job_that_was_killed_between_two_heads_goes_on_where_it_was(
    lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split_features(lake)
    appended = Table.append
    calls: Iterator[bool] = iter([False, False, False, True])

    def dying(self: Table, rows: DataFrame) -> object:
        if next(calls):
            raise KeyboardInterrupt
        return appended(self, rows)

    wanted = config(lake, "three_class/logistic", "binary/mlp", chunk_images=1)
    with monkeypatch.context() as patched:
        patched.setattr(Table, "append", dying)
        with pytest.raises(KeyboardInterrupt):
            score(wanted)
    # The first chunk is whole, the second one half.
    done = len(predictions(lake, "binary/mlp"))
    assert 0 < done < len(predictions(lake, "three_class/logistic")) < PHANTOM_STUDIES
    assert score(wanted).counts["images"] == PHANTOM_STUDIES - done
    assert len(predictions(lake, "binary/mlp")) == len(predictions(lake, "three_class/logistic")) == PHANTOM_STUDIES


def test_heads_of_two_extractors_each_take_their_own_features(lake: Path) -> None:
    score(config(lake, "binary/bf16", "binary/mlp"))
    for head in ("binary/bf16", "binary/mlp"):
        rows = predictions(lake, head)
        for image_id, probabilities in expected(lake, head).items():
            np.testing.assert_allclose(list(dict(rows[image_id]["probabilities"]).values()), probabilities, atol=1e-5)


def test_a_head_for_other_features_names_both_extractors(lake: Path) -> None:
    there = Lake.open(str(lake))
    own, other = load_head(there, "binary/mlp").extractor, load_head(there, "binary/bf16").extractor
    with pytest.raises(HeadError) as caught:
        score(config(lake, "binary/mlp", extractor=other[:10]))
    assert own in str(caught.value)
    assert other in str(caught.value)


@pytest.mark.parametrize("head", ["three_class/mlp", "three_class", "three_class/logistic/run=1"])
def test_a_head_that_is_not_there_is_told_with_those_that_are(trained_lake: Path, head: str) -> None:
    with pytest.raises(LakeError, match="Heads there: binary/bf16, binary/mlp, three_class/logistic"):
        score(config(trained_lake, "binary/mlp", head))


def test_a_damaged_head_is_refused(lake: Path) -> None:
    (weights,) = (lake / "heads" / "three_class" / "logistic").glob("run=*/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(HeadError, match="damaged"):
        score(config(lake, "three_class/logistic"))


@pytest.mark.parametrize("told", [{"from": "images"}, {"archive": "x"}, {"heads": []}, {"from": "pixels"}])
def test_settings_that_do_not_go_together_are_told_with_their_keys(told: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"from|heads"):
        model_from(ScoreConfig, {"lake": "x", "heads": "binary/mlp"} | told)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 70), classes=st.integers(1, 5), seed=st.integers(0, 99))
def test_arrow_holds_every_row_and_class_as_the_head_told_them(rows: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = tuple(f"class {index}" for index in range(classes))
    scores = SimpleNamespace(probabilities=rng.random((rows, classes)), decisions=rng.random((rows, classes)) < 0.5)
    head = SimpleNamespace(task=SimpleNamespace(name="task", classes=names), score=lambda features: scores)
    ids = [f"image {index}" for index in range(rows)]
    batch = answers("f" * 64, head, pa.array(ids), np.empty((rows, 3), np.float32))  # type: ignore[arg-type]
    batch.validate(full=True)
    assert batch.schema == ANSWERS
    for index, row in enumerate(batch.to_pylist()):
        assert (row["head"], row["image_id"], row["task"]) == ("f" * 64, ids[index], "task")
        assert row["probabilities"] == list(zip(names, np.float32(scores.probabilities[index]), strict=True))
        assert row["decisions"] == list(zip(names, scores.decisions[index], strict=True))


# --- from images -----------------------------------------------------------------------------------------------------


def test_files_give_the_predictions_that_their_features_give_and_leave_nothing_else(
    lake: Path, phantom_archive: Path
) -> None:
    heads = ("three_class/logistic", "binary/mlp")
    before = set(lake.rglob("*"))
    record = score(config(lake, *heads, **{"from": "images", "archive": str(phantom_archive), "chunk_images": 50}))
    others = sum(path.is_file() for path in phantom_archive.rglob("*")) - PHANTOM_STUDIES
    assert record.counts["images"] == record.counts["distinct"] == PHANTOM_STUDIES
    assert record.counts["refused"] == others
    for head in heads:
        rows = predictions(lake, head)
        assert len(rows) == PHANTOM_STUDIES
        for image_id, probabilities in expected(lake, head).items():
            found = list(dict(rows[image_id]["probabilities"]).values())
            np.testing.assert_allclose(found, probabilities, atol=1e-3)
    added = set(lake.rglob("*")) - before
    assert {path.relative_to(lake).parts[0] for path in added} == {"predictions"}
    # The lake knows this archive, and that its paths may be told.
    uris = {
        row["image_id"]: row["uri"] for row in Lake.open(str(lake)).studies.to_arrow(["image_id", "uri"]).to_pylist()
    }
    told = {row["image_id"]: row["uri"] for row in table(folder_of(lake, "binary/mlp", record) / "predictions.csv")}
    assert told == uris
    again = score(config(lake, *heads, **{"from": "images", "archive": str(phantom_archive)}))
    assert (again.counts["images"], again.counts["known"]) == (0, PHANTOM_STUDIES)
    assert len(predictions(lake, "binary/mlp")) == PHANTOM_STUDIES
    assert len(table(folder_of(lake, "binary/mlp", again) / "predictions.csv")) == PHANTOM_STUDIES
    assert score(config(lake, *heads)).counts["images"] == 0


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Files of every kind, good and bad."""
    folder = tmp_path / "archive"
    (folder / f"{PLANTED}^Jane").mkdir(parents=True)
    Image.fromarray(PIXELS).save(folder / f"{PLANTED}^Jane" / "scan.png")
    Image.fromarray(PIXELS).save(folder / "again.png")
    Image.fromarray(PIXELS[:, ::-1].copy()).save(folder / "19430217.tiff")
    Image.fromarray(PIXELS[::-1].copy()).save(folder / "plain.jpeg")
    (folder / "chest").write_bytes(chest_dicom(PatientName=f"{PLANTED}^Jane", PatientID=PLANTED))
    (folder / "lateral.dcm").write_bytes(chest_dicom(ViewPosition="LL", PatientName=PLANTED))
    (folder / "cut.dcm").write_bytes(chest_dicom(PatientName=PLANTED)[:-9000])
    (folder / "empty.png").write_bytes(b"")
    (folder / f"{PLANTED}.txt").write_text(PLANTED)
    (folder / "tiny.png").write_bytes(small_png())
    return folder


def small_png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[:5, :5].copy()).save(buffer, "PNG")
    return buffer.getvalue()


REFUSED = {"not_frontal": 1, "corrupt_image": 1, "empty_file": 1, "not_an_image": 1, "too_small": 1}


def test_bad_files_are_told_and_counted_and_nobody_is_named(
    lake: Path, archive: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    record = score(config(lake, "binary/mlp", **{"from": "images", "archive": str(archive)}))
    counts = record.counts
    assert (counts["inputs"], counts["images"], counts["refused"], counts["distinct"]) == (10, 5, 5, 4)
    assert {name.removeprefix("refused: "): n for name, n in counts.items() if name.startswith("refused: ")} == REFUSED
    assert len(predictions(lake, "binary/mlp")) == 4
    job = folder_of(lake, "binary/mlp", record)
    refused, listed = table(job / "refused.csv"), table(job / "predictions.csv")
    assert sorted(row["reason"] for row in refused) == sorted(REFUSED)
    assert all(row["detail"] for row in refused)
    uris = [row["uri"] for row in [*refused, *listed]]
    assert len(set(uris)) == 10
    assert all(re.fullmatch(r"[0-9a-f]{32}(\.\w+)?", uri) for uri in uris)
    # Who holds the key finds the file.
    (cut,) = (row["uri"] for row in refused if row["reason"] == "corrupt_image")
    assert locate(Lake.open(str(lake)), cut, "scored", None) == str(archive / "cut.dcm")
    assert "no study's" not in str(audit(AuditConfig(lake=str(lake))))
    said = capfd.readouterr()
    texts = [said.out + said.err + str(record), *(file.read_bytes().decode("latin-1") for file in written(lake))]
    assert not any(re.search(f"{PLANTED}|19430217|{KEY}", text, re.IGNORECASE) for text in texts)


def written(lake: Path) -> Iterator[Path]:
    for folder in ("predictions", "_scored_archives"):
        yield from (path for path in (lake / folder).rglob("*") if path.is_file())


def test_paths_are_told_on_request_but_not_those_of_dicom_files_or_with_dates(
    lake: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match="secret key"):
        score(config(lake, "binary/mlp", **{"from": "images", "archive": str(archive)}))
    record = score(config(lake, "binary/mlp", **{"from": "images", "archive": str(archive), "paths": "told"}))
    job = folder_of(lake, "binary/mlp", record)
    told = {row["uri"] for row in [*table(job / "predictions.csv"), *table(job / "refused.csv")]}
    # Of a file that could not be read nobody knows what its header would have told.
    readable = {f"{PLANTED}^Jane/scan.png", "again.png", "plain.jpeg"}
    assert readable < told
    assert all(re.fullmatch(r"[0-9a-f]{32}(\.\w+)?", uri) for uri in told - readable)


def test_what_can_not_be_rebuilt_is_told_before_any_work(
    lake: Path, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    images = {"from": "images", "archive": str(archive)}
    with pytest.raises(LakeError, match=r"2 extractors .*binary/bf16"):
        score(config(lake, "binary/mlp", "binary/bf16", **images))
    with pytest.raises(SourceError, match="no archive"):
        score(config(lake, "binary/mlp", **images | {"archive": str(tmp_path / "nowhere")}))
    with pytest.raises(LakeError, match="no weights 'gone"):
        score(config(lake, "binary/mlp", **images, backbone={"weights": "gone.safetensors"}))
    other = tmp_path / "other.pt"
    torch.save(build_untrained(get_backbone(NAME), 1).state_dict(), other)
    with pytest.raises(LakeError, match=r"weights_sha256.*backbone\.weights") as caught:
        score(config(lake, "binary/mlp", **images, backbone={"weights": str(other)}))
    assert load_head(Lake.open(str(lake)), "binary/mlp").extractor in str(caught.value)
    with pytest.raises(FeaturizerError, match="cuda:99"):
        score(config(lake, "binary/mlp", **images, device="cuda:99"))
    (known,) = (lake / "_datasets").glob("*.json")
    known.write_text(known.read_text().replace("bicubic to 224x224", "bicubic to 512x512"))
    with pytest.raises(LakeError, match=r"there .*512x512(.|\n)*here .*224x224"):
        score(config(lake, "binary/mlp", **images))
    assert not (lake / "predictions").exists()


def split_features(lake: Path) -> None:
    """Turn each file of features into three."""
    for file in lake.glob("features/*/run=*/*.parquet"):
        rows = pq.read_table(file)
        third = len(rows) // 3 + 1
        for start in range(0, len(rows), third):
            pq.write_table(rows.slice(start, third), file.with_name(f"{start:02}-{file.name}"))
        file.unlink()
