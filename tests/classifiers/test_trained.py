"""A trained head comes back from its files as it was, is known by what it answers, and tells of every damage."""

from __future__ import annotations

import hashlib
import json
import re
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from sklearn.naive_bayes import GaussianNB
from small_heads import DIM, EXTRACTOR, LABELS, QUICK, TASKS, draw, quick

from classifiers.calibration import Calibration
from classifiers.errors import HeadError
from classifiers.heads import HEADS
from classifiers.tasks import Rule, Task, get_task
from classifiers.thresholds import ThresholdRule
from classifiers.trained import FORMAT_VERSION, TrainedHead
from classifiers.training import train_head


def weights_of(trained) -> str:
    return next(iter(trained.head.weights_to_files()))


def test_files_reproduce_every_bit(trained, shape):
    files = trained.to_files()
    again = TrainedHead.from_files(files)
    features = draw(shape, 500, seed=4).features
    ours, theirs = trained.score(features), again.score(features)
    np.testing.assert_array_equal(ours.probabilities, theirs.probabilities)
    np.testing.assert_array_equal(ours.decisions, theirs.decisions)
    np.testing.assert_array_equal(ours.uncalibrated, theirs.uncalibrated)
    assert again.fingerprint == trained.fingerprint
    assert (again.metrics, again.baseline) == (trained.metrics, trained.baseline)
    assert (again.class_counts, again.balanced_counts) == (trained.class_counts, trained.balanced_counts)
    assert (again.learning_curves, again.provenance) == (trained.learning_curves, trained.provenance)
    assert (again.task, again.calibrator, again.thresholds) == (trained.task, trained.calibrator, trained.thresholds)
    assert list(again.metrics["test"].per_class) == list(trained.task.classes)  # the order of the confusion's rows
    assert again.to_files() == files


@pytest.mark.parametrize("calibration", list(Calibration))
@pytest.mark.parametrize(("rule", "value"), [("fixed", 0.2), ("youden", None), ("best_f1", None)])
def test_calibration_and_thresholds_come_back_exactly(shape, calibration, rule, value):
    trained = train_head(
        TASKS[shape],
        "logistic",
        draw(shape, 200),
        val=draw(shape, 100, seed=1, signal=0.5),
        extractor=EXTRACTOR,
        calibration=calibration,
        threshold=ThresholdRule(rule),
        threshold_value=value,
        resamples=0,
    )
    again = TrainedHead.from_files(trained.to_files())
    features = draw(shape, 300, seed=4).features
    ours, theirs = trained.score(features), again.score(features)
    np.testing.assert_array_equal(ours.probabilities, theirs.probabilities)
    np.testing.assert_array_equal(ours.decisions, theirs.decisions)
    assert again.fingerprint == trained.fingerprint


def test_training_twice_gives_the_same_files(make_trained, head_name, shape):
    make_trained.cache_clear()
    first = make_trained(head_name, shape).to_files()
    make_trained.cache_clear()
    assert make_trained(head_name, shape).to_files() == first


def test_file_names_and_no_pickle(trained, head_name, shape):
    files = trained.to_files()
    trees = {f"label-00{i}.ubj" for i in range(3)} if shape == "labels" else {"model.ubj"}
    weights = trees if head_name == "xgboost" else {"weights.safetensors"}
    assert set(files) == {"head.json", *weights, "metrics.json", "report.html"}
    for content in files.values():
        assert not content.startswith(b"\x80")  # the first byte of a pickle
    for name in ("head.json", "metrics.json"):
        json.loads(files[name], parse_constant=pytest.fail)  # called on NaN and Infinity


def test_score(trained, shape):
    k = len(trained.task.classes)
    scores = trained.score(draw(shape, 40).features)
    assert scores.probabilities.shape == scores.decisions.shape == scores.uncalibrated.shape == (40, k)
    assert scores.decisions.dtype == np.bool_
    assert np.array_equal(trained.predict_proba(draw(shape, 40).features), scores.probabilities)
    assert np.array_equal(trained.head.predict_proba(draw(shape, 40).features), scores.uncalibrated)
    assert np.array_equal(trained.calibrator(scores.uncalibrated), scores.probabilities)
    if shape == "labels":
        assert np.array_equal(scores.decisions, scores.probabilities >= trained.thresholds.levels)
    else:
        assert np.array_equal(scores.decisions.argmax(axis=1), scores.uncalibrated.argmax(axis=1))
        assert (scores.decisions.sum(axis=1) == 1).all()
        np.testing.assert_allclose(scores.probabilities.sum(axis=1), 1, atol=1e-9)
    none = trained.score(np.empty((0, DIM), np.float32))
    assert none.probabilities.shape == none.decisions.shape == none.uncalibrated.shape == (0, k)
    with pytest.raises(HeadError, match="expecting 32 features"):
        trained.score(np.empty((2, DIM + 1), np.float32))
    with pytest.raises(HeadError, match="hold NaN"):
        trained.score(np.full((2, DIM), np.nan, np.float32))


# The fingerprint


def test_fingerprint_is_the_hash_of_the_canonical_identity(trained):
    about = json.loads(trained.to_files()["head.json"])
    canonical = json.dumps(about["identity"], sort_keys=True, separators=(",", ":"))
    assert trained.fingerprint == about["fingerprint"] == hashlib.sha256(canonical.encode()).hexdigest()
    assert set(about["identity"]) == {
        *("format_version", "head", "params", "weights_sha256", "task", "thresholds", "calibration", "extractor"),
        "feature_dim",
    }


def renamed(task, name="renamed", **changes):
    return replace(task, name=name, **changes)


def test_fingerprint_moves_with_what_changes_the_answers(make_trained):
    trained, labels = make_trained("logistic"), make_trained("logistic", "labels")
    half = replace(labels.thresholds, levels=(0.5, *labels.thresholds.levels[1:]))
    offsets = replace(labels.calibrator, offsets=(0.1, *labels.calibrator.offsets[1:]))
    other_rule = Rule("effusion", any=("effusion", "edema"))
    heads = [
        trained,
        labels,
        make_trained("logistic", C=0.1),
        make_trained("logistic", balance="none"),
        make_trained("majority"),
        make_trained("logistic", "two"),
        replace(trained, extractor="f" * 64),
        replace(trained, task=renamed(trained.task)),
        replace(trained, task=Task.exclusive("three_class", ("normal", "bacterial", "viral"))),
        replace(labels, thresholds=half),
        replace(labels, calibrator=offsets),
        replace(labels, task=renamed(LABELS, LABELS.name, rules=(other_rule, *LABELS.rules[1:]))),
    ]
    assert len({head.fingerprint for head in heads}) == len(heads)


def test_fingerprint_stays_with_what_does_not(make_trained, shape):
    trained = make_trained("xgboost", shape)
    for changes in (
        {"metrics": {}, "baseline": {}},
        {"class_counts": {}, "balanced_counts": {}, "learning_curves": {}},
        {"provenance": {"Images": "of another clinic"}},
        {"task": renamed(trained.task, trained.task.name, description="The same, in other words.")},
    ):
        assert replace(trained, **changes).fingerprint == trained.fingerprint
    faster = deepcopy(trained)
    faster.head.set_params(n_jobs=2, device="cuda")
    assert faster.fingerprint == trained.fingerprint
    faster.head.set_params(random_state=9)
    assert faster.fingerprint != trained.fingerprint


def test_a_description_and_the_provenance_are_kept(make_trained):
    trained = make_trained("majority")
    told = {"description": "Two kinds, or none.", "provenance": {"Images": "phantoms"}}
    head = replace(trained, task=replace(trained.task, description=told["description"]), provenance=told["provenance"])
    again = TrainedHead.from_files(head.to_files())
    assert (again.task.description, again.provenance) == tuple(told.values())
    assert again.task == head.task


def test_scoring_changes_no_fingerprint(make_trained, head_name, shape):
    trained = make_trained(head_name, shape)
    before = trained.fingerprint
    trained.score(draw(shape, 30).features)
    assert trained.fingerprint == before


def test_sequences_of_any_kind_are_the_same_parameter(make_trained):
    rows = draw("two", 100)
    heads = [quick("mlp", hidden=hidden).fit(rows.features, rows.targets) for hidden in ((8,), [8], np.array([8]))]
    trained = make_trained("mlp", "two")
    assert len({replace(trained, head=head).fingerprint for head in heads}) == 1


def test_features_of_another_extractor_are_refused(trained):
    trained.check_extractor(EXTRACTOR)
    with pytest.raises(HeadError, match=r"extractor abc, the head was fitted on those of e{64}: extract features with"):
        trained.check_extractor("abc")


# Files that are missing, damaged, edited


def test_a_missing_file_is_named(trained):
    files = trained.to_files()
    for name in files.keys() - {"report.html"}:
        rest = {other: content for other, content in files.items() if other != name}
        with pytest.raises(HeadError, match=f"{re.escape(name)} is missing .*copy the head anew"):
            TrainedHead.from_files(rest)


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "nonsense"])
def test_damaged_files_are_refused(trained, damage):
    files = trained.to_files()
    for name in files.keys() - {"report.html"}:
        content = files[name]
        middle = len(content) // 2
        damaged = {
            "empty": b"",
            "cut": content[:middle],
            "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "nonsense": b"\xff\x00 no head",
        }[damage]
        with pytest.raises(HeadError, match=r"damaged|SHA-256"):
            TrainedHead.from_files(files | {name: damaged})


@pytest.mark.parametrize("head_name", ["logistic", "xgboost"])
def test_weights_of_another_head_are_refused(make_trained, head_name, shape):
    trained, other = make_trained(head_name, shape), make_trained(head_name, shape, random_state=1, balance="none")
    name = weights_of(trained)
    with pytest.raises(HeadError, match=rf"{name} has SHA-256 .*damaged or edited"):
        TrainedHead.from_files(trained.to_files() | {name: other.to_files()[name]})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("extractor", "f" * 64, "head.json has SHA-256 .* the file was damaged or edited"),
        ("feature_dim", 31, "damaged or edited"),
        ("thresholds", None, "damaged or edited"),
        ("calibration", {"method": "none"}, "damaged or edited"),
        ("format_version", 1, f"stored in format version 1, this code reads {FORMAT_VERSION}: .*train the head anew"),
        ("format_version", 99, f"stored in format version 99, this code reads {FORMAT_VERSION}"),
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


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("thresholds", {"rule": "best"}),
        ("calibration", None),
        ("task", {"name": "three_class"}),
        ("weights_sha256", []),
        ("feature_dim", "wide"),
    ],
)
def test_an_identity_that_was_hashed_again_but_says_nonsense_is_refused(make_trained, key, value):
    files = make_trained("logistic").to_files()
    about = json.loads(files["head.json"])
    about["identity"][key] = value
    canonical = json.dumps(about["identity"], sort_keys=True, separators=(",", ":"))
    about["fingerprint"] = hashlib.sha256(canonical.encode()).hexdigest()
    with pytest.raises(HeadError, match=r"head.json or metrics.json is damaged|ask for|is missing"):
        TrainedHead.from_files(files | {"head.json": json.dumps(about).encode()})


def test_edited_metrics_are_refused(make_trained):
    files = make_trained("majority").to_files()
    metrics = json.loads(files["metrics.json"])
    metrics["metrics"]["test"]["averages"]["macro"]["auc"]["value"] = 0.99
    with pytest.raises(HeadError, match=r"metrics.json has SHA-256 .* the file was damaged or edited"):
        TrainedHead.from_files(files | {"metrics.json": json.dumps(metrics).encode()})


@pytest.mark.parametrize("text", ["[]", "{}", "null", '{"identity": 3}', '{"identity": {}}'])
def test_json_of_another_shape_is_refused(make_trained, text):
    with pytest.raises(HeadError, match=r"head.json or metrics.json is damaged .*copy the head anew"):
        TrainedHead.from_files(make_trained("majority").to_files() | {"head.json": text.encode()})


# Folders


def test_save_and_load(trained, shape, tmp_path):
    trained.save(tmp_path / "heads" / "mine")
    again = TrainedHead.load(tmp_path / "heads" / "mine")
    features = draw(shape, 20).features
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


def test_labels_must_be_the_tasks_class_indices(make_trained):
    trained = make_trained("logistic")
    with pytest.raises(HeadError, match=r"labels \[0, 1, 2\], task 'binary' has the class indices 0 to 1"):
        replace(trained, task=get_task("binary"))
    rows = draw("three", 60)
    named = quick("logistic").fit(rows.features, np.array(["a", "b", "c"])[rows.targets])
    with pytest.raises(HeadError, match="fit it on the task's targets"):
        replace(trained, head=named)


def test_classes_are_no_labels_and_labels_no_classes(make_trained):
    """Both have three columns."""
    classes, labels = make_trained("logistic"), make_trained("logistic", "labels")
    for one, other in [(classes, labels), (labels, classes)]:
        with pytest.raises(HeadError, match=f"fitted on .*task '{other.task.name}' .*fit it on the task's targets"):
            replace(one, task=other.task)


def test_foreign_estimators_are_refused(make_trained):
    rows = draw("three", 60)
    with pytest.raises(HeadError, match="GaussianNB is no head that can be stored"):
        replace(make_trained("majority"), head=GaussianNB().fit(rows.features, rows.targets))


def test_quick_settings_cover_every_head():
    assert set(QUICK) == set(HEADS)
