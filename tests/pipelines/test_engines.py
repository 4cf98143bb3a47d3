"""Engines: workers that read the features themselves fit the head that this process would have fitted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from distributed import LocalCluster
from sklearn.metrics import roc_auc_score
from synthetic_studies import study, write_lake, write_run

from classifiers.boosting import XGBoostHead
from classifiers.errors import HeadError
from classifiers.estimator import Head
from classifiers.heads import make_head
from classifiers.tasks import UNANSWERED, Rule, Task
from classifiers.training import fit_head
from pipelines.engines import Engine, check_engine, fit_on_workers
from pipelines.errors import ConfigError, LakeError
from pipelines.labelled import FoundRows, find_rows
from pipelines.lake import Lake
from pipelines.splits import Split
from pipelines.stored_features import StoredFeatures

EXTRACTOR = "e" * 64
IMAGES, DIM = 1200, 12
FINDINGS = ("Mass", "Edema", "Nodule")
LABELS = Task("labels", tuple(Rule(name, any=(name,)) for name in FINDINGS), multi_label=True)
CLASSES = Task(
    "classes",
    (
        Rule("mass", any=("Mass",)),
        Rule("edema", any=("Edema",), none=("Mass",)),
        Rule("neither", none=("Mass", "Edema")),
    ),
)
SMALL = {"n_estimators": 60, "max_depth": 2, "learning_rate": 0.3, "early_stopping_rounds": 6, "n_jobs": 1}
#: What trees draw differs between engines; without draws they differ by rounding, and on Spark by the bins.
NO_DRAWS = {"subsample": 1.0, "colsample_bytree": 1.0}
#: Of macro AUCs on 240 rows, whose standard error is as large.
TOLERANCE = 0.03


def draw_lake(folder: Path, *, splits: tuple[str, ...] = ("train", "train", "train", "val", "test")) -> Lake:
    """A lake whose vectors show their findings, some of which are uncertain; two runs, with several row groups."""
    rng = np.random.default_rng(5)
    is_positive = rng.random((IMAGES, len(FINDINGS))) < (0.35, 0.25, 0.2)
    is_uncertain = rng.random(is_positive.shape) < (0.0, 0.0, 0.3)
    stated = np.where(is_uncertain, -1, is_positive).tolist()
    directions = rng.standard_normal((len(FINDINGS), DIM))
    vectors = (rng.standard_normal((IMAGES, DIM)) + 0.6 * is_positive @ directions).astype(np.float32).tolist()
    studies = [
        study(
            number,
            patient_key=f"patient {number // 2}",
            split=splits[number // 2 % len(splits)],
            findings=dict(zip(FINDINGS, stated[number], strict=True)),
        )
        for number in range(IMAGES)
    ]
    lake = write_lake(folder / "a lake", [studies])
    # The copies of val and test rows are nobody's business.
    rows = [
        {"image_id": one["image_id"], "variant": variant, "features": vector}
        for number, (one, vector) in enumerate(zip(studies, vectors, strict=True))
        for variant in range(2 if number % 10 == 0 else 1)
    ]
    write_run(lake.features(EXTRACTOR), [rows[:500], rows[500:700]], row_group=64)
    write_run(lake.features(EXTRACTOR), [rows[700:]], row_group=300)
    return lake


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return draw_lake(tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a cluster of two workers."""
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster.scheduler_address


def head_of(**params: Any) -> XGBoostHead:
    head = make_head("xgboost", **{**SMALL, **params})
    assert isinstance(head, XGBoostHead)
    return head


def fitted(engine: Engine, found: FoundRows, scheduler: str, **params: Any) -> XGBoostHead:
    head = head_of(**params)
    if engine is Engine.MEMORY:
        with found.read() as labelled:
            fit_head(head, labelled.train, labelled.val)
        return head
    return fit_on_workers(engine, found, head, scheduler=scheduler if engine is Engine.DASK else None)


def scores(found: FoundRows, head: XGBoostHead) -> npt.NDArray[np.float64]:
    with found.read((Split.TEST,)) as labelled:
        assert labelled.test is not None
        return head.predict_proba(labelled.test.features)


def macro_auc(found: FoundRows, head: XGBoostHead) -> float:
    targets, given = found.splits[Split.TEST].targets, scores(found, head)
    if not found.task.multi_label:
        return float(roc_auc_score(targets, given, multi_class="ovr"))
    known = targets != UNANSWERED
    return float(np.mean([roc_auc_score(targets[k, j], given[k, j]) for j, k in enumerate(known.T)]))


@pytest.mark.usefixtures("spark")
@pytest.mark.parametrize("task", [LABELS, CLASSES], ids=lambda task: task.name)
def test_metrics_agree_on_every_engine(lake: Lake, scheduler: str, task: Task) -> None:
    found = find_rows(lake, EXTRACTOR, task)
    heads = {engine: fitted(engine, found, scheduler, colsample_bytree=0.5) for engine in Engine}
    here = heads[Engine.MEMORY]
    expected = macro_auc(found, here)
    assert expected > 0.75
    for head in heads.values():
        assert macro_auc(found, head) == pytest.approx(expected, abs=TOLERANCE)
        assert head.balanced_counts_.tolist() == here.balanced_counts_.tolist()
        assert head.get_params() == here.get_params()
        assert head.learning_curves_.keys() == here.learning_curves_.keys()
        for name, curve in head.learning_curves_.items():
            assert min(curve) == pytest.approx(min(here.learning_curves_[name]), rel=0.1)
        stored = head.weights_to_files()
        again = head_of().restore(stored, n_features=DIM, n_classes=len(task.classes), multi_label=task.multi_label)
        np.testing.assert_array_equal(scores(found, again), scores(found, head))


@pytest.mark.parametrize("balance", ["none", "class_weight", "over_sample", "under_sample"])
@pytest.mark.parametrize("task", [LABELS, CLASSES], ids=lambda task: task.name)
def test_dask_grows_the_same_trees(lake: Lake, scheduler: str, task: Task, balance: str) -> None:
    found = find_rows(lake, EXTRACTOR, task)
    here, there = (
        fitted(engine, found, scheduler, balance=balance, **NO_DRAWS) for engine in (Engine.MEMORY, Engine.DASK)
    )
    np.testing.assert_allclose(scores(found, there), scores(found, here), atol=1e-3)
    rounds = [[booster.num_boosted_rounds() for booster in head.boosters_] for head in (here, there)]
    assert rounds[0] == rounds[1]
    assert min(rounds[0]) < SMALL["n_estimators"]


@pytest.mark.usefixtures("spark")
def test_spark_follows_the_balancing(lake: Lake, scheduler: str) -> None:
    found = find_rows(lake, EXTRACTOR, CLASSES)
    here, there = (
        fitted(engine, found, scheduler, balance="over_sample", **NO_DRAWS) for engine in (Engine.MEMORY, Engine.SPARK)
    )
    assert there.balanced_counts_.tolist() == here.balanced_counts_.tolist()
    # Unbalanced, the rarest class gets 0.05 less.
    np.testing.assert_allclose(scores(found, there).mean(axis=0), scores(found, here).mean(axis=0), atol=0.02)


def test_the_same_cluster_gives_the_same_head(lake: Lake, scheduler: str) -> None:
    found = find_rows(lake, EXTRACTOR, LABELS)
    one, other = (fitted(Engine.DASK, found, scheduler, n_estimators=5).weights_to_files() for _ in range(2))
    assert one == other


def test_workers_of_this_machine_do_without_a_scheduler_and_this_process_reads_no_row(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_rows(lake, EXTRACTOR, CLASSES)
    head = head_of(n_estimators=3)
    with monkeypatch.context() as patch:
        patch.setattr(StoredFeatures, "read_into", lambda *_: pytest.fail("features were read here"))
        fit_on_workers(Engine.DASK, found, head)
    assert scores(found, head).shape == (len(found.splits[Split.TEST]), 3)


@pytest.mark.usefixtures("spark")
@pytest.mark.parametrize("engine", [Engine.DASK, Engine.SPARK])
def test_patients_of_train_stand_in_for_val(tmp_path: Path, scheduler: str, engine: Engine) -> None:
    found = find_rows(draw_lake(tmp_path, splits=("train", "train", "train", "test")), EXTRACTOR, CLASSES)
    here, there = (fitted(each, found, scheduler, **NO_DRAWS) for each in (Engine.MEMORY, engine))
    assert "val loss" in there.learning_curves_
    assert there.balanced_counts_.tolist() == here.balanced_counts_.tolist()
    assert macro_auc(found, there) == pytest.approx(macro_auc(found, here), abs=TOLERANCE)


@pytest.mark.usefixtures("spark")
@pytest.mark.parametrize("engine", [Engine.DASK, Engine.SPARK])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_told(tmp_path: Path, scheduler: str, engine: Engine, value: float) -> None:
    lake = draw_lake(tmp_path)
    more = study(IMAGES, findings=dict.fromkeys(FINDINGS, 0))
    write_run(lake.studies, [[more]])
    write_run(
        lake.features(EXTRACTOR),
        [[{"image_id": more["image_id"], "variant": 0, "features": [value] + [0.0] * (DIM - 1)}]],
    )
    with pytest.raises(LakeError, match=f"1 features in .* those of image {more['image_id']}.*extract again"):
        fitted(engine, find_rows(lake, EXTRACTOR, CLASSES), scheduler)


@pytest.mark.parametrize(
    ("engine", "head", "settings", "told"),
    [
        (Engine.DASK, make_head("mlp"), {}, "engine=dask fits head=xgboost alone.*engine=memory"),
        (Engine.SPARK, make_head("logistic"), {}, "engine=spark fits head=xgboost alone.*engine=memory"),
        (Engine.DASK, make_head("xgboost", balance="smote"), {}, "smote needs all features.*over_sample"),
        (Engine.SPARK, make_head("xgboost", device="cuda"), {}, "boosts on CPUs.*engine=memory"),
        (Engine.MEMORY, make_head("mlp"), {"scheduler": "tcp://host:8786"}, "scheduler=.*is for engine=dask"),
        (Engine.SPARK, make_head("xgboost"), {"scheduler": "tcp://host:8786"}, "scheduler=.*is for engine=dask"),
        (Engine.DASK, make_head("xgboost"), {"master": "local[2]"}, "master=.*is for engine=spark"),
    ],
)  # fmt: skip
def test_what_an_engine_can_not_do_is_told_before_any_work(
    engine: Engine, head: Head, settings: dict[str, str], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        check_engine(engine, head, **settings)


def test_memory_does_all_that_heads_do() -> None:
    check_engine(Engine.MEMORY, make_head("xgboost", balance="smote"))
    check_engine(Engine.MEMORY, make_head("mlp"))


def test_a_parameter_out_of_its_range_is_told_before_any_work() -> None:
    with pytest.raises(HeadError, match="max_depth"):
        check_engine(Engine.DASK, make_head("xgboost", max_depth=0))
