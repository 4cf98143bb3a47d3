"""A lake's way from a file to a vector, made anew: its crop rules and an extractor, as its own records tell them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from featurizers.backbones import Weights
from featurizers.crops import describe_crops
from featurizers.extractor import Extractor, Precision, Storage, describe_extractor
from featurizers.lungs import LungFinder
from pipelines.config import Config, ConfigT
from pipelines.datasets import crops_of
from pipelines.errors import LakeError
from pipelines.extract_config import BackboneConfig
from pipelines.folders import Folder
from pipelines.ingest import CropConfig
from pipelines.lake import EXTRACTOR_CARD, Lake
from pipelines.stored_backbones import LAKE_PREFIX, open_backbone


def rebuild_crops(lake: Lake, moved: Config) -> tuple[CropConfig, LungFinder | None]:
    """How the lake's images became crops, and the finder of the lungs, with all that it needs in memory.

    Args:
        lake: that was ingested into.
        moved: keys of CropConfig: files that are elsewhere now; None: where they were.

    Raises:
        LakeError: if these would be other crops than the lake's.
        FeaturizerError: if the finder's files can't be read.
    """
    crop = _recorded(lake.studies.folder, "crop", CropConfig, moved)
    finder = crop.open_finder()
    there, here = crops_of(lake), describe_crops(crop.settings(), finder)
    if there != here:
        raise LakeError(
            f"the crops of this lake can't be made anew.\n  there  {there}\n  here   {here}\nIf the finder's files "
            "have moved or changed, name those of the ingest with crop.weights=… or crop.atlas=…; if Pleura has "
            "changed, score from features, or use the version that ingested."
        )
    return crop, finder


def rebuild_extractor(lake: Lake, wanted: str, moved: Config) -> tuple[Extractor, Weights]:
    """The extractor with the fingerprint `wanted`, and its weights.

    Args:
        lake: with features of it, or at least its card.
        wanted: its fingerprint.
        moved: keys of BackboneConfig: weights that are elsewhere now; None: where they were.

    Raises:
        LakeError: if the lake knows no such extractor or fine-tuned backbone, or the weights make another extractor.
        WeightsError: if the weights can't be had.
    """
    folder = lake.features(wanted).folder
    if EXTRACTOR_CARD not in folder.names():
        raise LakeError(
            f"nothing tells how extractor {wanted} makes features: there is no {folder.uri}/{EXTRACTOR_CARD}. Run "
            "jobs/extract_features.py with its settings, which writes it, or restore it."
        )
    card = folder.read_json(EXTRACTOR_CARD)
    backbone = _recorded(folder, "backbone", BackboneConfig, moved)
    # lake://backbones/NAME may have a newer run by now, and the card tells the one that was meant.
    was_newest = moved.model_dump().get("weights") is None and backbone.weights.startswith(LAKE_PREFIX)
    source = card["weights"] if was_newest else backbone.weights
    opened = open_backbone(lake, card["backbone"], source, backbone.seed)
    weights = opened.weights
    # Cards from before there was a choice tell no storage.
    storage = Storage(card.get("storage", Storage.FLOAT32))
    found = describe_extractor(opened.spec.name, weights, Precision(card["precision"]), crops_of(lake), storage)
    if found.fingerprint != wanted:
        differing = ", ".join(name for name, value in asdict(found).items() if card.get(name) != value)
        raise LakeError(
            f"the heads take features of extractor {wanted}, and these settings make extractor {found.fingerprint} "
            f"(another {differing or 'card'}). It had the weights {card['weights']}, these are {weights.source}: name "
            "the right ones with backbone.weights=…"
        )
    return found, weights


def _recorded(table: Folder, section: str, model: type[ConfigT], moved: Config) -> ConfigT:
    """A part of the config of the newest job that filled a table; the defaults where no job is remembered."""
    jobs = table / "_jobs"
    told: dict[str, Any] = {}
    for job in reversed(jobs.names()):
        if "run.json" not in (jobs / job).names():
            continue
        config = (jobs / job).read_json("run.json")["config"]
        # A compaction has a config of another kind.
        if section in config:
            told = config[section]
            break
    return model.model_validate(told | moved.model_dump(exclude_none=True))
