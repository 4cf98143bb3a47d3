"""Fine-tuned backbones: found by name, opened as what they state, and told where they do not fit."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from synthetic_studies import study, write_lake

from featurizers.backbones import build_untrained, get_backbone, save_weights
from featurizers.errors import WeightsError
from pipelines.acquisition import HeldOut
from pipelines.config import Config
from pipelines.errors import LakeError
from pipelines.extract import ExtractConfig, extract
from pipelines.extract_config import BackboneConfig
from pipelines.folders import Folder
from pipelines.lake import Lake
from pipelines.rebuild import rebuild_extractor
from pipelines.score_config import ScoreBackboneConfig
from pipelines.stored_backbones import backbone_file, open_backbone
from pipelines.stored_heads import load_head
from pipelines.train import TrainConfig, train

SMALL = "simple_cnn:filters=4-8,size=28"
NEWEST = "lake://backbones/tuned"


def save_backbone(lake: Lake, name: str, seed: int, crops: str = "unknown") -> Folder:
    """One more run of a fine-tuned backbone."""
    run = lake.backbones(name).new_run()
    Path(run.path).mkdir(parents=True)
    spec = get_backbone(SMALL)
    save_weights(Path(run.path) / "backbone.safetensors", spec, build_untrained(spec, seed).state_dict())
    run.write_json("card.json", {"name": name, "crops": crops})
    run.commit()
    return run


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Six studies, and a backbone that was fine-tuned twice."""
    lake = write_lake(tmp_path / "lake", [[study(number) for number in range(6)]])
    save_backbone(lake, "tuned", seed=1)
    save_backbone(lake, "tuned", seed=2)
    return lake


def test_the_newest_run_is_opened_as_the_architecture_that_it_states(lake: Lake) -> None:
    old, new = lake.backbones("tuned").runs()
    opened = open_backbone(lake, None, NEWEST)
    assert opened.spec.name == get_backbone(SMALL).name
    expected = build_untrained(opened.spec, 2).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in opened.weights.state.items())
    # What it says of itself opens the same run again, when there is a newer one.
    assert opened.weights.source == f"{NEWEST}/{new.name}"
    save_backbone(lake, "tuned", seed=3)
    assert open_backbone(lake, None, opened.weights.source).weights.sha256 == opened.weights.sha256
    assert open_backbone(lake, None, f"{NEWEST}/{old.name}").weights.sha256 != opened.weights.sha256


def test_a_run_that_is_not_committed_is_not_seen(lake: Lake) -> None:
    before = backbone_file(lake, NEWEST)
    started = lake.backbones("tuned").new_run()
    started.write("backbone.safetensors", b"half of it")
    assert backbone_file(lake, NEWEST) == before


@pytest.mark.parametrize(
    "location", ["lake://backbones/tuend", "lake://backbones", "lake://heads/tuned", "lake://tuned"]
)
def test_a_backbone_that_is_not_there_is_told_with_those_that_are(lake: Lake, location: str) -> None:
    save_backbone(lake, "another", seed=0)
    with pytest.raises(LakeError, match=r"no backbone .*lake://backbones/another, lake://backbones/tuned\."):
        open_backbone(lake, None, location)


def test_a_lake_without_backbones_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="finetune_backbone"):
        backbone_file(write_lake(tmp_path / "lake", [[study(0)]]), NEWEST)


def test_a_run_that_lost_its_weights_is_told(lake: Lake) -> None:
    backbone_file(lake, NEWEST).unlink()
    with pytest.raises(LakeError, match=r"holds no backbone\.safetensors"):
        open_backbone(lake, None, NEWEST)


def test_another_architecture_than_the_one_stated_is_refused_with_both_names(lake: Lake) -> None:
    for location in (NEWEST, str(backbone_file(lake, NEWEST))):
        with pytest.raises(WeightsError) as caught:
            open_backbone(lake, "simple_cnn:size=56", location)
        assert get_backbone(SMALL).name in str(caught.value)
        assert "simple_cnn:size=56" in str(caught.value)
    # The same architecture may be written in another order.
    assert open_backbone(lake, "simple_cnn:size=28,filters=4-8", NEWEST).spec.name == get_backbone(SMALL).name


def test_a_file_that_states_nothing_is_of_resnet50(lake: Lake, tmp_path: Path) -> None:
    file = tmp_path / "anyone's.pt"
    torch.save(build_untrained(get_backbone("resnet50")).state_dict(), file)
    assert open_backbone(lake, None, str(file)).spec.name == "resnet50"
    with pytest.raises(
        LakeError, match=r"no weights '.*gone\.safetensors'.*fine-tuned in this lake: lake://backbones/"
    ):
        open_backbone(lake, None, str(tmp_path / "gone.safetensors"))


@pytest.fixture
def remote_lake() -> Iterator[Lake]:
    """A lake on a file system that is not this machine's."""
    lake = Lake(Folder.at(f"memory://{uuid.uuid4().hex}/lake"))
    yield lake
    lake.folder.remove()


def test_a_lake_elsewhere_gives_a_local_copy(remote_lake: Lake, lake: Lake) -> None:
    content = backbone_file(lake, NEWEST).read_bytes()
    run = remote_lake.backbones("tuned").new_run()
    run.write("backbone.safetensors", content)
    run.commit()
    assert backbone_file(remote_lake, NEWEST).read_bytes() == content
    assert open_backbone(remote_lake, None, NEWEST).spec.name == get_backbone(SMALL).name


@pytest.mark.parametrize(
    ("card", "crops"),
    [(b'{"crops": "lungs"}', "lungs"), (b'{"crops": 3}', None), (b"[1]", None), (b"{", None), (None, None)],
)
def test_the_crops_of_the_training_are_told_where_a_card_tells_them(
    lake: Lake, tmp_path: Path, card: bytes | None, crops: str | None
) -> None:
    file = tmp_path / "alone" / "weights.safetensors"
    file.parent.mkdir()
    file.write_bytes(backbone_file(lake, NEWEST).read_bytes())
    if card is not None:
        (file.parent / "card.json").write_bytes(card)
    assert open_backbone(lake, None, str(file)).crops == crops


@pytest.mark.parametrize(("told", "caution"), [("why", "why"), (None, None), (3, None)])
def test_what_the_card_warns_of_is_carried(lake: Lake, told: object, caution: str | None) -> None:
    run = save_backbone(lake, "warned", seed=1)
    run.write_json("card.json", {"hold_out": HeldOut().as_dict(), "caution": told})
    opened = open_backbone(lake, None, "lake://backbones/warned")
    assert opened.caution == caution
    assert opened.backbones_hold_out.caution == caution
    assert opened.backbones_hold_out.settings == HeldOut().settings


# --- extraction ------------------------------------------------------------------------------------------------------


def run_extraction(lake: Lake, weights: str = NEWEST, name: str | None = None) -> str:
    backbone = BackboneConfig(weights=weights, name=name)
    return str(extract(ExtractConfig(lake=lake.folder.uri, backbone=backbone, precision="fp32")))


@pytest.mark.usefixtures("spark")
def test_features_of_a_fine_tuned_backbone_are_of_its_own_dimension_and_can_be_made_anew(lake: Lake) -> None:
    summary = run_extraction(lake)
    assert "warning" not in summary
    (extractor,) = lake.extractors()
    card = json.loads(lake.features(extractor).folder.read("_extractor.json"))
    spec = get_backbone(SMALL)
    assert (card["backbone"], card["feature_dim"]) == (spec.name, spec.feature_dim)
    vectors = lake.features(extractor).to_arrow(["features"])["features"]
    assert {len(vector) for vector in vectors.to_pylist()} == {spec.feature_dim}
    # Fine-tuned anew, the features that are there stay those of the run that made them.
    save_backbone(lake, "tuned", seed=3)
    described, weights = rebuild_extractor(lake, extractor, Config())
    assert described.fingerprint == extractor
    assert weights.source == card["weights"]
    with pytest.raises(LakeError, match="weights_sha256") as caught:
        rebuild_extractor(lake, extractor, ScoreBackboneConfig(weights=NEWEST))
    assert card["weights"] in str(caught.value)


@pytest.mark.usefixtures("spark")
def test_weights_that_were_trained_on_other_crops_are_warned_of(lake: Lake) -> None:
    save_backbone(lake, "tuned", seed=4, crops="the whole image")
    summary = run_extraction(lake)
    assert "warning: these weights were trained on other crops" in summary
    assert "trained on  the whole image" in summary


@pytest.mark.usefixtures("spark")
def test_weights_are_used_at_another_size_where_that_is_asked_for_and_it_is_told(lake: Lake) -> None:
    assert "trained as" not in run_extraction(lake)
    (own,) = lake.extractors()
    summary = run_extraction(lake, name="simple_cnn:filters=4-8,size=56")
    assert re.search(rf"(?m)^trained as +{get_backbone(SMALL).name}: the weights are used in another way", summary)
    (other,) = set(lake.extractors()) - {own}
    assert rebuild_extractor(lake, other, Config())[0].fingerprint == other


@pytest.mark.usefixtures("spark")
def test_what_the_start_has_seen_is_told_by_extraction_and_by_heads(tmp_path: Path) -> None:
    rows = [
        study(
            number,
            findings={"normal": 1 - number % 2, "pneumonia": number % 2},
            split=("train", "train", "val")[number // 2 % 3],
        )
        for number in range(30)
    ]
    lake = write_lake(tmp_path / "lake", [rows])
    run = save_backbone(lake, "warned", seed=1)
    caution = "the backbone was fine-tuned with hold_out.by=none"
    run.write_json("card.json", {"hold_out": HeldOut().as_dict(), "caution": caution})
    told = f"of the weights that it started from: {caution}"
    assert re.search(f"(?m)^caution +{told}$", run_extraction(lake, "lake://backbones/warned"))
    (extractor,) = lake.extractors()
    assert lake.features(extractor).folder.read_json("_extractor.json")["caution"] == caution
    summary = str(train(TrainConfig(lake=lake.folder.uri, task="binary", head="logistic", resamples=0)))
    assert re.search(f"(?m)^caution +{told}$", summary)
    assert load_head(lake, "binary/logistic").provenance["Caution"] == told
