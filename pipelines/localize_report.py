"""The report of localized findings, beside their table: figures against annotated boxes, checks of maps, a gallery."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F  # noqa: N812  the name that Spark's documentation gives it

from classifiers.calibration import Calibration
from classifiers.evaluation import Figure
from classifiers.heads import OWN_TOP
from classifiers.rows import SplitRows
from classifiers.trained import TrainedHead
from classifiers.training import train_head
from featurizers.backbones import Weights
from featurizers.embedder import Embedder
from featurizers.extractor import Extractor
from featurizers.saliency import Method
from pipelines import __version__
from pipelines.acquisition import BackbonesHoldOut
from pipelines.errors import USER_ERRORS, ConfigError
from pipelines.folders import Folder
from pipelines.job import JobRecord
from pipelines.labelled import find_rows
from pipelines.lake import Lake
from pipelines.localization_reports.checks import Sample, check_maps
from pipelines.localization_reports.figures import THRESHOLDS, Case, Figures, Finder, figures_of
from pipelines.localization_reports.gallery import overlay_png
from pipelines.localization_reports.page import render_page
from pipelines.localization_reports.pictures import Asked, Exhibition, Picture, read_pictures, sample_pixels
from pipelines.localization_reports.subject import Checks, Shown, Subject
from pipelines.localization_reports.truth import Annotated
from pipelines.localize_config import LocalizeConfig
from pipelines.localizer import Localizer
from pipelines.progress import Progress, tell
from pipelines.session import named_jobs, runs_in_driver
from pipelines.splits import Split
from pipelines.tables import Table

#: A head is fitted anew, to shuffled labels, on so many rows at most: a check must not take longer than what it checks.
MOST_REFITTED = 200_000
PAGE, FIGURES, CASES, OVERLAYS = "report.html", "figures.json", "cases.csv", "overlays"
#: In a summary: the IoBB that is told.
_TOLD = THRESHOLDS.index(0.25)
_METHODS: Mapping[Method, str] = {
    Method.CAM: "class activation maps: the head's weight of each feature weighs that feature's map (Zhou et al. 2016)",
    Method.GRAD_CAM: "Grad-CAM: the head's slope at the image weighs each feature's map, and what speaks against the "
    "class is left out (Selvaraju et al. 2017)",
    Method.SHAP: "what trees owe to each feature is spread over that feature's map (TreeSHAP: Lundberg et al. 2020)",
    Method.OCCLUSION: "what hiding a place costs the class's score (Zeiler and Fergus 2014)",
}


@dataclass(frozen=True)
class Outcome:
    """What was found out.

    Attributes:
        folder: with the page and all beside it.
        figures: None where no annotated box can be judged.
        checks: None where none were made.
        why_no_figures: where there are none.
    """

    folder: Folder
    figures: Figures | None
    checks: Checks | None
    why_no_figures: str


@dataclass(frozen=True)
class LocalizationReport:
    """A table of localizations, and all that is needed to judge and to show it."""

    spark: SparkSession
    lake: Lake
    config: LocalizeConfig
    localizer: Localizer
    table: Table
    truth: Mapping[str, Annotated]

    def write(self, extractor: Extractor, weights: Weights, record: JobRecord) -> Outcome:
        """Judge, check, draw, and write it beside the table."""
        rules, settings = self.localizer.rules, self.config.report
        folder = self.table.folder / "_jobs" / record.id
        with named_jobs(self.spark, "localize: figures"):
            tell("judging the places")
            cases = self._cases(self.truth)
            figures = None
            if cases:
                figures = figures_of(cases, rules.classes, resamples=settings.resamples, seed=settings.seed)
            asked = self._asked(cases)
            sampled = self._sampled()
            ids = [each.image_id for each in (*asked, *sampled)]
            pictures = read_pictures(self.spark, self.lake, ids)
            images = self._rows().select("image_id").distinct().count()
        tell(f"viewing {len(pictures):,} images for the gallery and the checks")
        embedder = self._embedder(extractor, weights)
        judged = {Asked(case.image_id, case.finding): case for case in cases}
        shown = Exhibition(self.localizer, embedder).show(asked, pictures, judged)
        checks = self._checks([each for each in sampled if each.image_id in pictures], pictures, embedder, weights)
        annotated = len({case.image_id for case in cases})
        unscored = self._unscored(images, annotated)
        subject = self._subject(extractor, images, annotated, unscored, record)
        folder.write(PAGE, render_page(subject, figures, checks, shown).encode())
        self._write_overlays(folder / OVERLAYS, shown)
        folder.write(CASES, _cases_csv(cases).encode())
        folder.write_json(FIGURES, _as_json(figures, checks))
        return Outcome(folder, figures, checks, " ".join(unscored))

    def _rows(self) -> DataFrame:
        """The localizations of the split."""
        rows = self.table.read(self.spark)
        if self.config.only_split is None:
            return rows
        studies = self.lake.studies.read(self.spark).where(F.col("split") == self.config.only_split)
        return rows.join(studies.select("image_id"), "image_id", "left_semi")

    def _cases(self, truth: Mapping[str, Annotated]) -> list[Case]:
        if not truth:
            return []
        ids = self.spark.createDataFrame(pd.DataFrame({"image_id": sorted(truth)}))
        rows = self.table.read(self.spark).join(F.broadcast(ids), "image_id", "left_semi").toArrow().to_pylist()
        rows.sort(key=lambda row: (row["class"], row["image_id"]))
        return [
            Case(
                image_id=row["image_id"],
                patient=there.patient,
                finding=row["class"],
                probability=row["probability"],
                truth=there.boxes[row["class"]],
                peak=row["peak"] and (row["peak"]["x"], row["peak"]["y"]),
                found=np.array([[box[s] for s in ("left", "top", "right", "bottom")] for box in row["boxes"]]).reshape(
                    -1, 4
                ),
                shown=there.shown,
            )
            for row in rows
            if row["class"] in (there := truth[row["image_id"]]).boxes
        ]

    def _asked(self, cases: Sequence[Case]) -> list[Asked]:
        """What the gallery shows: of each class cases, as many missed as hit, or else the most probable images."""
        number = self.config.report.per_class
        asked: list[Asked] = []
        judged = defaultdict[str, list[Case]](list)
        for case in sorted(cases, key=lambda case: -case.probability):
            judged[case.finding].append(case)
        for name, own in judged.items():
            sides = [[c for c in own if c.is_pointed_at is is_hit] for is_hit in (True, False)]
            hits = min(len(sides[0]), max(number - number // 2, number - len(sides[1])))
            takes = (hits, number - hits)
            asked += [Asked(c.image_id, name) for side, n in zip(sides, takes, strict=True) for c in side[:n]]
        rest = [name for name in self.localizer.rules.classes if name not in judged]
        if number and rest:
            best = Window.partitionBy("class").orderBy(F.desc("probability"), "image_id")
            rows = self._rows().where(F.col("class").isin(rest)).withColumn("place", F.row_number().over(best))
            found = rows.where(F.col("place") <= number).select("image_id", "class", "place").collect()
            asked += [Asked(row["image_id"], row["class"]) for row in sorted(found, key=lambda row: row["place"])]
        return list(dict.fromkeys([*asked, *self._wanted()]))

    def _wanted(self) -> Iterator[Asked]:
        """The images that the config names, each with its most probable class."""
        for start in self.config.report.images:
            rows = self._rows().where(F.col("image_id").startswith(start))
            found = rows.orderBy(F.desc("probability"), "class").select("image_id", "class").collect()
            if len({row["image_id"] for row in found}) != 1:
                number = len({row["image_id"] for row in found}) or "no"
                raise ConfigError(
                    f"report.images: {number} localized images of this split begin with '{start}'. Give the id of one, "
                    "from the table of localizations, or choose split=…"
                )
            yield Asked(found[0]["image_id"], found[0]["class"])

    def _sampled(self) -> list[Asked]:
        """Images for the checks, each with the most probable class that the head decides for."""
        number = self.config.report.checks
        if not number:
            return []
        best = Window.partitionBy("image_id").orderBy(F.desc("probability"), "class")
        rows = self._rows().where("decision").withColumn("place", F.row_number().over(best)).where("place = 1")
        # By a hash: the same images whatever the partitioning, and not those that come first in the archive.
        drawn = rows.orderBy(F.xxhash64("image_id", F.lit(self.config.report.seed)), "image_id").limit(number)
        return [Asked(row["image_id"], row["class"]) for row in drawn.select("image_id", "class").collect()]

    def _embedder(self, extractor: Extractor, weights: Weights) -> Embedder:
        # A cluster's GPUs are not the driver's.
        here = runs_in_driver(self.spark.sparkContext.master)
        return Embedder(
            extractor.backbone,
            weights,
            precision=extractor.precision,
            crops=extractor.crops,
            device=self.config.device if here else "cpu",
            batch_size=self.config.batch_size,
            storage=extractor.storage,
        )

    def _checks(
        self, sampled: Sequence[Asked], pictures: Mapping[str, Picture], embedder: Embedder, weights: Weights
    ) -> Checks | None:
        if not sampled:
            return None
        there = [pictures[each.image_id] for each in sampled]
        classes = self.localizer.rules.classes
        sample = Sample(
            sample_pixels(there, embedder),
            np.array([each.patient for each in there]),
            np.array([classes.index(each.finding) for each in sampled]),
        )
        relabelled, why_not = self._relabelled()
        done = 0

        def count(passes: int) -> None:
            nonlocal done
            done += passes

        with Progress("check the maps", None, lambda: done, unit="passes"):
            return check_maps(
                self.localizer,
                embedder,
                weights,
                sample,
                relabelled=relabelled,
                why_not_relabelled=why_not,
                resamples=self.config.report.resamples,
                seed=self.config.report.seed,
                tell=count,
            )

    def _relabelled(self) -> tuple[TrainedHead | None, str]:
        """The same kind of head, fitted to train's labels dealt out at random."""
        trained = self.localizer.trained
        if trained.head_name == OWN_TOP:
            return None, "own_top is not fitted: its labels went into the backbone"
        held_out = BackbonesHoldOut.of_extractor(self.lake, trained.extractor).settings
        try:
            rows = find_rows(self.lake, trained.extractor, trained.task, held_out)
            if (there := rows.places[Split.TRAIN].size) > MOST_REFITTED:
                return None, f"train has {there:,} rows, more than are fitted anew for a check ({MOST_REFITTED:,})"
            with rows.read((Split.TRAIN,)) as labelled:
                order = np.random.default_rng(self.config.report.seed).permutation(len(labelled.train.targets))
                shuffled = SplitRows(labelled.train.features, labelled.train.targets[order], labelled.train.patients)
                return (
                    train_head(
                        trained.task,
                        trained.head_name,
                        shuffled,
                        extractor=trained.extractor,
                        params=trained.params,
                        resamples=0,
                    ),
                    "",
                )
        except USER_ERRORS as error:
            return None, f"the head can't be fitted anew: {error}"

    def _unscored(self, images: int, judged: int) -> list[str]:
        source = "the file of boxes" if self.config.boxes else "the studies"
        said = [f"{images - judged:,} images without an annotated box of these classes are counted and not judged."]
        if not judged:
            said = [f"None of the {images:,} localized images has an annotated box of these classes in {source}."]
        if lost := len(self.truth) - judged:
            said.append(f"{lost:,} images with such boxes have no map: their crops are in quarantine.")
        return said

    def _subject(
        self, extractor: Extractor, images: int, with_boxes: int, unscored: Sequence[str], record: JobRecord
    ) -> Subject:
        rules, trained = self.localizer.rules, self.localizer.trained
        features = self.lake.describe_extractor(extractor.fingerprint)
        return Subject(
            head=self.config.head,
            head_fingerprint=rules.head,
            localizer=rules.fingerprint,
            features=features,
            is_untrained=str(self.lake.extractor_card(extractor.fingerprint).get("weights", "")).endswith("untrained"),
            classes=rules.classes,
            method=_METHODS[rules.method],
            level=rules.level,
            split=self.config.only_split,
            images=images,
            annotated=with_boxes,
            unscored=unscored,
            truth="a file of boxes" if self.config.boxes else "the boxes that came with the archive",
            calibration=_calibration(trained),
            thresholds=trained.thresholds.describe(),
            made=f"{record.started:%Y-%m-%d %H:%M} UTC with Pleura {__version__}",
        )

    def _write_overlays(self, folder: Folder, shown: Sequence[Shown]) -> None:
        for place, each in enumerate(shown, 1):
            told = {True: "hit", False: "miss", None: "unannotated"}[each.is_hit]
            name = "".join(letter if letter.isalnum() else "_" for letter in each.finding)
            folder.write(f"{place:03}-{name}-{told}-{each.image_id[:12]}.png", overlay_png(each))


def _calibration(trained: TrainedHead) -> str:
    calibrator = trained.calibrator
    if calibrator.method is Calibration.NONE:
        return "not calibrated"
    but = f", but not those of {', '.join(calibrator.left_out)}" if calibrator.left_out else ""
    return f"calibrated on val by {calibrator.method}{but}"


def figure_lines(outcome: Outcome) -> list[str]:
    """An outcome for the screen."""
    if outcome.figures is None:
        lines = [f"no figures: {outcome.why_no_figures}"]
    else:
        lines = [f"{'class'.ljust(22)}  images  {'pointing game: head'.ljust(22)}  centre   lungs  IoBB > 0.25: head"]
        for name, each in outcome.figures.by_class.items():
            lines.append(_figure_line(name, f"{each.images:,}", each.by_finder))
        lines.append(_figure_line("mean over classes", "", outcome.figures.mean))
    for doubt in outcome.checks.doubts if outcome.checks else ():
        lines.append(f"doubt: {doubt}")
    return lines


def _figure_line(name: str, images: str, by_finder: Mapping[Finder, Any]) -> str:
    head, centre, lungs = (by_finder[finder] for finder in Finder)
    return (
        f"{name.ljust(22)}  {images.rjust(6)}  {_told(head.pointing).ljust(22)}  {_value(centre.pointing)}    "
        f"{_value(lungs.pointing)}  {_told(head.iobb_accuracy[_TOLD])}; {_value(centre.iobb_accuracy[_TOLD])} and "
        f"{_value(lungs.iobb_accuracy[_TOLD])}"
    )


def _value(figure: Figure) -> str:
    return "n/a" if figure.value is None else f"{figure.value:.3f}"


def _told(figure: Figure) -> str:
    if figure.low is None or figure.high is None:
        return _value(figure)
    return f"{_value(figure)} ({figure.low:.3f}–{figure.high:.3f})"


def _cases_csv(cases: Sequence[Case]) -> str:
    rows = [
        {
            "image_id": case.image_id,
            "class": case.finding,
            "probability": round(case.probability, 6),
            "true_boxes": len(case.truth),
            "found_boxes": len(case.found),
            "is_pointed_at": case.is_pointed_at,
            "best_iobb": round(case.best_iobb, 4),
        }
        for case in cases
    ]
    columns = ["image_id", "class", "probability", "true_boxes", "found_boxes", "is_pointed_at", "best_iobb"]
    return pd.DataFrame(rows, columns=columns).to_csv(index=False)


def _as_json(figures: Figures | None, checks: Checks | None) -> dict[str, Any]:
    return {
        "thresholds": list(THRESHOLDS),
        "by_class": {name: each.as_dict() for name, each in figures.by_class.items()} if figures else {},
        "mean": {str(finder): each.as_dict() for finder, each in figures.mean.items()} if figures else {},
        "checks": asdict(checks) if checks else None,
    }
