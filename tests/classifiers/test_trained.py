from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from sklearn.naive_bayes import GaussianNB
from small_heads import DIM, EXTRACTOR, QUICK

from classifiers.errors import HeadError
from classifiers.heads import HEADS, make_head
from classifiers.tasks import Task, get_task
from classifiers.trained import TrainedHead

WEIGHTS = {name: kind.weights_file for name, kind in HEADS.items()}


@pytest.mark.parametrize("task", ["binary", "three_class"])
def test_files_reproduce_every_bit(make_trained, draw, head_name, task):
    trained = make_trained(head_name, task)
    files = trained.to_files()
    again = TrainedHead.from_files(files)
    features = draw(500, len(trained.task.classes), seed=4).features
    ours, theirs = trained.score(features), again.score(features)
    np.testing.assert_array_equal(ours.probabilities, theirs.probabilities)
    np.testing.assert_array_equal(ours.decisions, theirs.decisions)
    assert again.fingerprint == trained.fingerprint
    assert (again.metrics, again.baseline) == (trained.metrics, trained.baseline)
    assert again.class_counts == trained.class_counts
    assert again.task == trained.task
    assert list(again.metrics["test"].per_class) == list(trained.task.classes)  # the order of the confusion's rows
    assert again.to_files() == files


def test_training_twice_gives_the_same_files(make_trained, head_name):
    assert make_trained(head_name).to_files() == make_trained(head_name).to_files()


def test_file_names_and_no_pickle(trained, head_name):
    files = trained.to_files()
    weights = "model.ubj" if head_name == "xgboost" else "weights.safetensors"
    assert set(files) == {"head.json", weights, "metrics.json", "report.html"}
    for content in files.values():
        assert not content.startswith(b"\x80")  # the first byte of a pickle
    for name in ("head.json", "metrics.json"):
        json.loads(files[name], parse_constant=pytest.fail)  # called on NaN and Infinity


def test_calibration_and_thresholds_are_told(trained):
    files = trained.to_files()
    identity = json.loads(files["head.json"])["identity"]
    assert identity["calibration"] == json.loads(files["metrics.json"])["calibration"] == "none"
    assert identity["thresholds"] == {"rule": "argmax"}
    assert b"not calibrated" in files["report.html"]


def test_score(trained, draw):
    scores = trained.score(draw(40).features)
    assert scores.probabilities.shape == scores.decisions.shape == (40, 3)
    assert scores.decisions.dtype == np.bool_
    assert np.array_equal(scores.decisions.argmax(axis=1), scores.probabilities.argmax(axis=1))
    assert (scores.decisions.sum(axis=1) == 1).all()
    none = trained.score(np.empty((0, DIM), np.float32))
    assert none.probabilities.shape == none.decisions.shape == (0, 3)
    with pytest.raises(HeadError, match="expecting 32 features"):
        trained.score(np.empty((2, DIM + 1), np.float32))


# The fingerprint


def test_fingerprint_is_the_hash_of_the_canonical_identity(trained):
    about = json.loads(trained.to_files()["head.json"])
    canonical = json.dumps(about["identity"], sort_keys=True, separators=(",", ":"))
    assert trained.fingerprint == about["fingerprint"] == hashlib.sha256(canonical.encode()).hexdigest()
    assert set(about["identity"]) == {
        *("format_version", "head", "params", "weights_sha256", "task", "thresholds", "calibration", "extractor"),
        "feature_dim",
    }


def test_fingerprint_moves_with_what_changes_the_answers(make_trained):
    trained = make_trained("logistic")
    others = [
        make_trained("logistic", C=0.1),
        make_trained("logistic", balance="none"),
        make_trained("majority"),
        make_trained("logistic", "binary"),
        replace(trained, extractor="f" * 64),
        replace(trained, task=Task("renamed", trained.task.classes)),
        replace(trained, task=Task("three_class", ("normal", "bacterial", "viral"))),
    ]
    assert len({head.fingerprint for head in [trained, *others]}) == len(others) + 1


def test_fingerprint_stays_with_what_does_not(make_trained):
    trained = make_trained("xgboost")
    assert replace(trained, metrics={}, baseline={}).fingerprint == trained.fingerprint
    trained.head.set_params(n_jobs=2)
    assert trained.fingerprint == make_trained("xgboost").fingerprint


def test_sequences_of_any_kind_are_the_same_parameter(make_trained):
    fingerprints = {make_trained("mlp", hidden=hidden).fingerprint for hidden in ((8,), [8], np.array([8]))}
    assert len(fingerprints) == 1


def test_features_of_another_extractor_are_refused(trained):
    trained.check_extractor(EXTRACTOR)
    with pytest.raises(HeadError, match=r"extractor abc, the head was fitted on those of e{64}: extract features with"):
        trained.check_extractor("abc")


# Files that are missing, damaged, edited


def test_a_missing_file_is_named(trained, head_name):
    files = trained.to_files()
    for name in ("head.json", WEIGHTS[head_name], "metrics.json"):
        rest = {other: content for other, content in files.items() if other != name}
        with pytest.raises(HeadError, match=f"{re.escape(name)} is missing .*copy the head anew"):
            TrainedHead.from_files(rest)


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "nonsense"])
def test_damaged_files_are_refused(trained, head_name, damage):
    files = trained.to_files()
    for name in ("head.json", WEIGHTS[head_name], "metrics.json"):
        content = files[name]
        middle = len(content) // 2
        damaged = {
            "empty": b"",
            "cut": content[:middle],
            "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "nonsense": b"\xff\x00 no head",
        }[damage]
        with pytest.raises(HeadError):
            TrainedHead.from_files(files | {name: damaged})


def test_weights_of_another_head_are_refused(make_trained):
    files, other = make_trained("logistic").to_files(), make_trained("logistic", C=1.0).to_files()
    with pytest.raises(HeadError, match=r"weights.safetensors has SHA-256 .*damaged or edited"):
        TrainedHead.from_files(files | {"weights.safetensors": other["weights.safetensors"]})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("extractor", "f" * 64, "head.json has SHA-256 .* the file was damaged or edited"),
        ("feature_dim", 31, "damaged or edited"),
        ("format_version", 99, "stored in format version 99, this code reads 1"),
        ("head", "svm", "unknown head 'svm'"),
        ("params", {"alpha": 1}, "has no parameter alpha"),
        ("params", None, "is damaged"),
    ],
)
def test_an_edited_identity_is_refused(make_trained, key, value, message):
    files = make_trained("logistic").to_files()
    about = json.loads(files["head.json"])
    about["identity"][key] = value
    with pytest.raises(HeadError, match=message):
        TrainedHead.from_files(files | {"head.json": json.dumps(about).encode()})


@pytest.mark.parametrize("text", ["[]", "{}", "null", '{"identity": 3}', '{"identity": {}}'])
def test_json_of_another_shape_is_refused(make_trained, text):
    with pytest.raises(HeadError, match=r"head.json or metrics.json is damaged .*copy the head anew"):
        TrainedHead.from_files(make_trained("majority").to_files() | {"head.json": text.encode()})


# Folders


def test_save_and_load(trained, draw, tmp_path):
    trained.save(tmp_path / "heads" / "mine")
    again = TrainedHead.load(tmp_path / "heads" / "mine")
    features = draw(20).features
    np.testing.assert_array_equal(again.score(features).probabilities, trained.score(features).probabilities)
    assert (tmp_path / "heads" / "mine" / "report.html").read_bytes() == trained.to_files()["report.html"]


def test_a_stored_head_is_never_edited(make_trained, tmp_path):
    make_trained("majority").save(tmp_path / "head")
    with pytest.raises(HeadError, match="already exists and is not empty: name a new folder"):
        make_trained("logistic").save(tmp_path / "head")


def test_load_without_a_folder_or_a_head(tmp_path):
    with pytest.raises(HeadError, match="there is no folder"):
        TrainedHead.load(tmp_path / "nowhere")
    with pytest.raises(HeadError, match=r"head.json is missing"):
        TrainedHead.load(tmp_path)


# What can't be a trained head


def test_labels_must_be_the_tasks_class_indices(make_trained, draw):
    trained = make_trained("logistic")
    with pytest.raises(HeadError, match=r"labels \[0, 1, 2\], task 'binary' has the class indices 0 to 1"):
        replace(trained, task=get_task("binary"))
    rows = draw(60)
    named = make_head("logistic").fit(rows.features, np.array(["a", "b", "c"])[rows.targets])
    with pytest.raises(HeadError, match="fit it on the task's targets"):
        replace(trained, head=named)


def test_foreign_estimators_are_refused(make_trained, draw):
    rows = draw(60)
    with pytest.raises(HeadError, match="GaussianNB is no head that can be stored"):
        replace(make_trained("majority"), head=GaussianNB().fit(rows.features, rows.targets))


def test_quick_settings_cover_every_head():
    assert set(QUICK) == set(HEADS)
