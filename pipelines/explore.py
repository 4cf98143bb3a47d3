"""A lake's studies as one HTML page: label distributions, correlations, ages, views, crops, and what they warn of."""

from __future__ import annotations

from dask.delayed import delayed
from pydantic import Field

from pipelines import __version__
from pipelines.config import LakeConfig
from pipelines.errors import ConfigError, LakeError
from pipelines.exploration.counts import Counts, Scope, StudyFile, count_files, study_files
from pipelines.exploration.crops import Crops, read_crops
from pipelines.exploration.page import Subject, render_page
from pipelines.exploration.survey import Survey
from pipelines.folders import Folder
from pipelines.job import JobRecord, summary_text
from pipelines.lake import Lake
from pipelines.progress import Progress, clock

PAGE = "explore.html"


class ExploreConfig(LakeConfig):
    """Settings of jobs/explore_dataset.py."""

    dataset: str | None = Field(None, description="the only data set to look at; null: all of the lake")
    out: str | None = Field(None, description="folder of the page, new or empty; null: LAKE/reports/explore-ID")
    examples: int = Field(8, ge=0, le=100, description="crops shown of each finding; 0: none")
    seed: int = Field(0, ge=0, lt=2**63, description="of the crops that are sampled; the same seed shows the same ones")


def explore(config: ExploreConfig) -> JobRecord:
    """Run the job.

    Raises:
        ConfigError: if `out` holds something already.
        LakeError: if there are no studies (of the data set).
        FeaturizerError: if a stored crop is damaged.
    """
    lake = Lake.open(config.lake)
    record = JobRecord("explore_dataset", config)
    out = Folder.at(config.out) if config.out else lake.folder / "reports" / f"explore-{record.id}"
    if out.names():
        raise ConfigError(f"out='{out.uri}' is not empty. Name a new folder.")
    files = study_files(lake.studies.folder)
    with record.time("count"):
        counts = _count(files, Scope(config.dataset, config.examples, config.seed))
    survey = Survey(counts)
    if not survey.images:
        raise LakeError(_nothing_there(lake, config.dataset))
    with record.time("crops"):
        crops = _look(files, survey)
    rejected = lake.quarantine.count_by("dataset", "reason")
    quarantine = {key: number for key, number in rejected.items() if config.dataset in (None, key[0])}
    subject = Subject(
        lake=lake.folder.name,
        dataset=config.dataset,
        made=f"Made {record.started:%Y-%m-%d %H:%M} UTC with Pleura {__version__}.",
        seed=config.seed,
        quarantine=quarantine,
    )
    out.write(PAGE, render_page(subject, survey, crops).encode())
    record.count("images", survey.images)
    record.count("patients", survey.patients)
    record.count("quarantined", sum(quarantine.values()))
    record.count("crops looked at", len(crops.grey_values))
    for name in survey.findings:
        record.count(f"positive: {name}", survey.mentions(name).positive)
    out.write_json("run.json", record.as_dict())
    record.summary = _summary(record, survey, out)
    return record


def _count(files: list[StudyFile], scope: Scope) -> Counts:
    total = sum(delayed([delayed(file.rows, pure=False)() for file in files]).compute(scheduler="threads"))
    done: list[int] = []
    with Progress("count", total, lambda: sum(done)):
        return count_files(files, scope, done.append)


def _look(files: list[StudyFile], survey: Survey) -> Crops:
    counts = survey.counts
    measured = counts.crop_sample.places()
    shown = [place for name in survey.shown for place in counts.examples.places(name)]
    done: list[int] = []
    with Progress("look at crops", len({*measured, *shown}), lambda: sum(done)):
        return read_crops(files, measured, shown, done.append)


def _nothing_there(lake: Lake, dataset: str | None) -> str:
    if dataset is None:
        return f"'{lake.folder.uri}' holds no study: every input is in quarantine. See its reasons there."
    there = ", ".join(sorted(set(lake.studies.to_arrow(["dataset"])["dataset"].unique().to_pylist())))
    return f"there is no data set '{dataset}' in '{lake.folder.uri}'. It holds: {there or 'none'}."


def _summary(record: JobRecord, survey: Survey, out: Folder) -> str:
    seconds = record.timings["count"]
    rows: dict[str, object] = {
        "images": ", ".join(f"{split} {n:,}" for split, n in survey.splits.items()),
        "patients": f"{survey.patients:,}" + ("" if survey.counts.patients.is_exact else ", estimated"),
        "data sets": ", ".join(f"{name} {n:,}" for name, n in survey.datasets.items()),
        "findings": _extremes(survey),
        "in quarantine": record.counts["quarantined"],
        "time": f"count {clock(seconds)} ({survey.images / max(seconds, 1e-3):,.0f} images/s), "
        f"crops {clock(record.timings['crops'])}",
    }
    title = f"Explored {record.config.model_dump()['dataset'] or 'the studies'}"
    return "\n".join([summary_text(title, rows), "", "research use only", f"page  {out.uri}/{PAGE}"])


def _extremes(survey: Survey) -> str:
    if not survey.findings:
        return "none"
    told = [f"{name} {survey.mentions(name).positive:,}" for name in (survey.findings[0], survey.findings[-1])]
    return f"{len(survey.findings)}, from {told[0]} to {told[1]} positive"
