"""What an extraction tells at its end."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict

from featurizers.extractor import Extractor
from featurizers.stages import Stages
from pipelines.acquisition import NOBODY, BackbonesHoldOut
from pipelines.augmented_copies import CopyPlan, task_of_copies
from pipelines.executor_embedder import told_lack_of_compiler, told_setup
from pipelines.extract_target import FeaturesTarget
from pipelines.job import JobRecord, summary_text
from pipelines.progress import clock
from pipelines.stored_backbones import OpenedBackbone
from pipelines.tables import ORIGINAL

#: How many images without a vector are named; all are counted.
FAILURES_TOLD = 3


def summarise(
    record: JobRecord,
    opened: OpenedBackbone,
    extractor: Extractor,
    target: FeaturesTarget,
    plan: CopyPlan | None,
) -> str:
    """The summary of a job.

    Args:
        record: of it, with all its counts and timings.
        opened, extractor: the backbone.
        target: that was filled.
        plan: of copies; None where none were asked for.
    """
    features = target.table.folder
    rows: dict[str, object] = {
        "extractor": f"{extractor.backbone} {extractor.precision}, weights {opened.weights.source}",
        "fingerprint": extractor.fingerprint,
    }
    if opened.trained_as:
        rows["trained as"] = f"{opened.trained_as}: the weights are used in another way here than they were trained"
    if earlier := BackbonesHoldOut(caution=opened.caution).earlier:
        rows["caution"] = earlier
    failed_crops = sum(each.variant == ORIGINAL for each in target.failed)
    images = record.counts["images"] - failed_crops
    copies = record.counts.get("copies", 0) - (len(target.failed) - failed_crops)
    rows["new features"] = images if record.counts["images"] else "none: every study has its features already"
    if plan:
        told = ", ".join(f"{name} {n:,} of {plan.images[name]:,}" for name, n in plan.rows.items())
        rows["new copies"] = copies if record.counts["copies"] else "none: they are all there already"
        rows["train with copies"] = f"{told} images{_less(opened)}"
    elif task := task_of_copies(features):
        rows["new copies"] = f"none asked for; those here balance {task} as train was when they were drawn"
    if "extract" in record.timings:
        seconds = record.timings["extract"]
        rows["time"] = f"{clock(seconds)} ({(images + copies) / seconds:,.1f} images/s; {told_setup(record)})"
        if start := record.timings.get("until first images"):
            rows["until it began"] = f"{clock(record.timings['plan'])} planning, {clock(start)} until the first images"
        rows["worked as"] = _worked(record)
        rows["where it went"] = told_stages(target.tally.spent)
    rows |= _without_vector(record, target)
    rows["table"] = features.uri
    lines = [summary_text("Extracted features", rows)]
    if opened.crops not in (None, extractor.crops):
        lines.append(
            "warning: these weights were trained on other crops than this lake's, which costs accuracy\n"
            f"  trained on  {opened.crops}\n  these are   {extractor.crops}"
        )
    return "\n\n".join([*lines, *told_lack_of_compiler(record)])


def told_stages(spent: Stages) -> str:
    """Where the workers' time went, in words."""
    whole = spent.wait + spent.compute + spent.hand_over
    if not whole:
        return "nowhere"
    parts = {"backbone": spent.compute, "waiting for crops": spent.wait, "handing vectors over": spent.hand_over}
    told = ", ".join(f"{name} {seconds / whole:.0%}" for name, seconds in parts.items())
    told = f"of the {clock(whole)} of all tasks together: {told}"
    if (busy := spent.gpu_utilisation) is not None:
        told += f"; GPU busy {busy:.0%} (NVML)"
    return told


def as_told(spent: Stages) -> dict[str, object]:
    """The same for `run.json`: seconds of all tasks by stage, images, and how busy the GPU was, where NVML told."""
    seconds = {name: round(value, 3) for name, value in asdict(spent).items() if isinstance(value, float)}
    del seconds["gpu_percent"]
    counts = {"images": spent.images, "batches": spent.batches}
    return {"seconds_of_all_tasks": seconds, **counts, "gpu_utilisation": spent.gpu_utilisation}


def _worked(record: JobRecord) -> str:
    extra = record.extra
    sizes = " or ".join(map(str, extra["batch_size"]))
    return f"{extra['workers']}, batches of {sizes}, on {', '.join(extra['devices'])}"


def _without_vector(record: JobRecord, target: FeaturesTarget) -> dict[str, object]:
    rows: dict[str, object] = {}
    if new := target.failed:
        counts = Counter(each.reason for each in new)
        told = ", ".join(f"{reason} {number:,}" for reason, number in sorted(counts.items()))
        # Copies of one crop fail together.
        images = list(dict.fromkeys(each.image_id for each in new))
        first = ", ".join(images[:FAILURES_TOLD])
        rows["no vector"] = f"{len(new):,} ({told}): {first}{', …' if len(images) > FAILURES_TOLD else ''}"
    if there := record.counts["in quarantine"]:
        rows["quarantine"] = f"{there:,} in all; to try them again, remove {target.quarantine.folder.uri}"
    return rows


def _less(opened: OpenedBackbone) -> str:
    settings = opened.backbones_hold_out.settings or NOBODY
    return "" if settings == NOBODY else f", without those that the backbone held out (hold_out.by={settings})"
