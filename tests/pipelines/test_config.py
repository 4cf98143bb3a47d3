"""Configs: merging, validation with every mistake at once, help, and YAML files that say what the code does."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import yaml
from pydantic import Field

from classifiers.tasks import get_task
from featurizers.backbones import get_backbone
from pipelines.audit import AuditConfig
from pipelines.compact import CompactConfig
from pipelines.compare import CompareConfig
from pipelines.config import Config, HelpRequested, help_text, read_config
from pipelines.cross_validation_grid import CrossValidationConfig
from pipelines.errors import ConfigError
from pipelines.explore import ExploreConfig
from pipelines.extract import ExtractConfig
from pipelines.finetune_config import FinetuneConfig
from pipelines.ingest import IngestConfig
from pipelines.lung_evaluation import LungEvaluationConfig
from pipelines.phantoms import PhantomsConfig
from pipelines.score import ScoreConfig
from pipelines.segmenter_training import SegmenterTrainingConfig
from pipelines.sweep_config import SweepConfig
from pipelines.train import TrainConfig

CONF = Path(__file__).resolve().parents[2] / "conf"


class Inner(Config):
    depth: int = Field(3, ge=1, description="how deep")


class Aliased(Config):
    from_: Literal["a", "b"] = Field("a", alias="from", description="whence")


class Example(Config):
    lake: str = Field(description="where")
    kind: Literal["a", "b"] = Field("a", description="which")
    inner: Inner = Inner()


def read(*arguments: str, default_file: Path = Path("conf/none.yaml")) -> Example:
    return read_config(Example, arguments, purpose="Does it.", default_file=default_file)


def test_the_command_line_wins_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "example.yaml"
    file.write_text("kind: b\ninner: {depth: 5}\n")
    assert read("--config", str(file), "lake=x", "inner.depth=7") == Example(lake="x", kind="b", inner=Inner(depth=7))


def test_the_jobs_own_file_is_read_without_being_named(tmp_path: Path) -> None:
    file = tmp_path / "example.yaml"
    file.write_text("inner: {depth: 5}\n")
    assert read("lake=x", default_file=file).inner.depth == 5


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("2024_01", "2024_01"),
        ("010", "010"),
        ("a #3", "a #3"),
        ("local-cluster[2,1,1024]", "local-cluster[2,1,1024]"),
        ("s3a://b/c", "s3a://b/c"),
    ],
)
def test_text_stays_text(value: str, text: str) -> None:
    assert read(f"lake={value}").lake == text


def test_every_mistake_is_told_at_once_by_its_dotted_path() -> None:
    with pytest.raises(ConfigError) as caught:
        read("kind=c", "inner.deph=2", "inner.depth=0")
    message = str(caught.value)
    assert "4 mistakes" in message
    for part in ("lake: missing", "kind: ", "inner.depth: ", "inner.deph: no such key; did you mean inner.depth?"):
        assert part in message


@pytest.mark.parametrize("argument", ["stray", "--lake=x", "-x"])
def test_an_argument_that_is_no_setting_is_refused(argument: str) -> None:
    with pytest.raises(ConfigError, match="key=value"):
        read("lake=x", argument)


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: [1\n", "just text\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError):
        read("--config", str(file), "lake=x")


def test_a_missing_config_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        read("--config", "nowhere.yaml", "lake=x")


def test_help_lists_every_key_with_type_default_and_line() -> None:
    with pytest.raises(HelpRequested) as caught:
        read("--help")
    text = str(caught.value)
    assert "lake  <str, required>" in text
    assert "kind  <a|b, default a>" in text
    assert "inner.depth  <int, default 3>\n      how deep" in text


def test_a_key_that_is_a_word_of_pythons_is_spelt_as_users_do(tmp_path: Path) -> None:
    file = tmp_path / "aliased.yaml"
    file.write_text("from: b\n")
    assert read_config(Aliased, [], purpose="", default_file=file).from_ == "b"
    assert read_config(Aliased, ["from=a"], purpose="", default_file=file).from_ == "a"
    assert "  from  <a|b, default a>" in help_text(Aliased, "", file)
    with pytest.raises(ConfigError, match=r"(?m)^  from: .*\n  form: no such key; did you mean from\?$"):
        read_config(Aliased, ["from=c", "form=a"], purpose="", default_file=file)


JOBS: dict[str, type[Config]] = {
    "make_phantoms": PhantomsConfig,
    "ingest_studies": IngestConfig,
    "audit_lake": AuditConfig,
    "evaluate_lungs": LungEvaluationConfig,
    "explore_dataset": ExploreConfig,
    "compact_lake": CompactConfig,
    "extract_features": ExtractConfig,
    "finetune_backbone": FinetuneConfig,
    "sweep_backbones": SweepConfig,
    "train_head": TrainConfig,
    "compare_heads": CompareConfig,
    "cross_validate_heads": CrossValidationConfig,
    "train_segmenter": SegmenterTrainingConfig,
    "score_studies": ScoreConfig,
}


@pytest.mark.parametrize("job", JOBS)
def test_the_yaml_of_a_job_holds_every_default_and_no_other(job: str) -> None:
    model = JOBS[job]
    required = {
        name: {"source": "kermany"}.get(name, "x") for name, field in model.model_fields.items() if field.is_required()
    }
    written = yaml.safe_load((CONF / f"{job}.yaml").read_text()) or {}
    assert not set(written) & set(required)
    assert model.model_validate(written | required) == model.model_validate(required)
    assert set(written) | set(required) == {field.alias or name for name, field in model.model_fields.items()}


@pytest.mark.parametrize("recipe", [CONF / "recipes" / "kermany_backbone.yaml"], ids=lambda file: file.stem)
def test_a_recipe_for_a_backbone_can_be_asked_for(recipe: Path) -> None:
    config = read_config(FinetuneConfig, ["--config", str(recipe), "lake=x"], purpose="", default_file=recipe)
    assert config.name == recipe.stem.removesuffix("_backbone")
    assert config.backbone.name is not None
    assert get_backbone(config.backbone.name).name == config.backbone.name
    get_task(config.task)


@pytest.mark.parametrize("job", JOBS)
def test_every_key_of_a_job_is_explained(job: str) -> None:
    assert "None" not in help_text(JOBS[job], "", Path(f"conf/{job}.yaml")).split("keys:")[1]
