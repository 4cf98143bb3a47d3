from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifiers.errors import ClassifierError, TaskError
from classifiers.tasks import UNANSWERED, Rule, Task, Uncertain, get_task, task_names
from pipelines.sources.chestxray14 import CHESTXRAY14_LABELS
from pipelines.sources.chexpert import CHEXPERT_OBSERVATIONS

BUILT_IN = (
    "binary",
    "chestxray14",
    "chestxray14_boxed",
    "chestxray14_groups",
    "chestxray14_no_finding",
    "chexpert14",
    "three_class",
)
NAMES = ["normal", "pneumonia", "viral", "bacterial", "effusion"]
FINDINGS = st.lists(st.dictionaries(st.sampled_from(NAMES), st.sampled_from([1, 0, -1])), max_size=30)
SOME_NAMES = st.lists(st.sampled_from(NAMES), max_size=3, unique=True).map(tuple)


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    """Tasks of any rules that could hold at all."""
    multi_label = draw(st.booleans())
    rules = []
    for place in range(draw(st.integers(1 if multi_label else 2, 4))):
        none = draw(SOME_NAMES)
        held = st.sampled_from([name for name in NAMES if name not in none])
        parts = {part: tuple(draw(st.lists(held, max_size=3, unique=True))) for part in ("any", "all")}
        if not (none or any(parts.values())):
            none = ("normal",)
        rules.append(Rule(f"class {place}", **parts, none=none, uncertain=draw(st.sampled_from(Uncertain))))
    return Task("any", tuple(rules), multi_label)


def holds(rule: Rule, image: dict[str, int]) -> bool | None:
    """Kleene's logic, image by image: None is unknown."""
    uncertain = {"ones": True, "zeros": False, "ignore": None}[rule.uncertain]

    def value(name: str) -> bool | None:
        return {1: True, 0: False, -1: uncertain}[image.get(name, 0)]

    def either(values: list[bool | None]) -> bool | None:
        return True if True in values else None if None in values else False

    def negated(value: bool | None) -> bool | None:
        return None if value is None else not value

    def both(values: list[bool | None]) -> bool | None:
        return negated(either([negated(each) for each in values]))

    parts = []
    if rule.any:
        parts.append(either([value(name) for name in rule.any]))
    if rule.all:
        parts.append(both([value(name) for name in rule.all]))
    if rule.none:
        parts.append(negated(either([value(name) for name in rule.none])))
    return both(parts)


def by_the_book(task: Task, image: dict[str, int]) -> int | list[int]:
    mentions = any(name in image for name in task.findings)
    held = [holds(rule, image) if mentions else None for rule in task.rules]
    if task.multi_label:
        return [UNANSWERED if each is None else int(each) for each in held]
    return held.index(True) if held.count(True) == 1 and None not in held else UNANSWERED


@settings(deadline=None)
@given(FINDINGS, tasks())
def test_targets_follow_the_rules(findings, task):
    targets = task.targets(findings)
    assert targets.dtype == (np.int8 if task.multi_label else np.int64)
    assert targets.shape == ((len(findings), len(task.rules)) if task.multi_label else (len(findings),))
    assert targets.tolist() == [by_the_book(task, image) for image in findings]


@settings(deadline=None)
@given(tasks())
def test_a_task_survives_json(task):
    assert Task.from_dict(json.loads(json.dumps(task.as_dict()))) == task


@pytest.mark.parametrize(
    ("task", "findings", "target"),
    [
        ("binary", {"normal": 1}, 0),
        ("binary", {"pneumonia": 1}, 1),
        ("binary", {"normal": 0, "pneumonia": 1}, 1),
        ("binary", {"normal": 0, "pneumonia": 0}, UNANSWERED),
        ("binary", {"normal": 1, "pneumonia": 1}, UNANSWERED),
        ("binary", {"normal": 1, "pneumonia": -1}, UNANSWERED),
        ("binary", {"pneumonia": -1}, UNANSWERED),
        ("binary", {}, UNANSWERED),
        ("binary", {"effusion": 1}, UNANSWERED),
        ("binary", {"pneumonia": 1, "effusion": -1}, 1),
        ("three_class", {"normal": 1, "pneumonia": 0}, 0),
        ("three_class", {"pneumonia": 1}, UNANSWERED),
        ("three_class", {"pneumonia": 1, "viral": 1}, 1),
        ("three_class", {"pneumonia": 1, "viral": 0, "bacterial": 1}, 2),
        ("three_class", {"viral": 1, "bacterial": -1}, UNANSWERED),
    ],
)
def test_targets_by_example(task, findings, target):
    assert get_task(task).targets([findings]).tolist() == [target]


def test_rows_of_chestxray14_by_example():
    no_finding = {**dict.fromkeys(CHESTXRAY14_LABELS, 0), "No Finding": 1}
    two = {**no_finding, "No Finding": 0, "Edema": 1, "Mass": 1}
    labels = get_task("chestxray14")
    assert labels.targets([no_finding, two, {"pneumonia": 1}]).sum(axis=1).tolist() == [0, 2, -14]
    assert get_task("chestxray14_no_finding").targets([no_finding, two])[:, -1].tolist() == [1, 0]
    groups = get_task("chestxray14_groups")
    shown = groups.targets([no_finding, two]) == 1
    assert [tuple(np.array(groups.classes)[row]) for row in shown] == [
        ("No Finding",),
        ("Airspace opacity", "Nodule or mass"),
    ]


def test_rows_of_chexpert_by_example():
    task = get_task("chexpert14")
    (target,) = task.targets([{"Edema": -1, "Fracture": 0, "Cardiomegaly": 1}]).tolist()
    assert {name: each for name, each in zip(task.classes, target, strict=True) if each} == {
        "Edema": 1,
        "Cardiomegaly": 1,
    }


def test_the_tasks_there_are():
    assert task_names() == BUILT_IN
    assert get_task("chestxray14").classes == CHESTXRAY14_LABELS
    assert get_task("chestxray14_no_finding").classes == (*CHESTXRAY14_LABELS, "No Finding")
    assert get_task("chexpert14").classes == CHEXPERT_OBSERVATIONS
    groups = get_task("chestxray14_groups")
    assert len(groups.classes) == 10
    assert set(groups.findings) == {*CHESTXRAY14_LABELS, "No Finding"}
    assert all(get_task(name).description and get_task(name).name == name for name in BUILT_IN)
    assert [get_task(name).multi_label for name in BUILT_IN] == [False, True, True, True, True, True, False]


def test_no_task_is_read_before_it_is_asked_for():
    code = "import sys, pathlib; pathlib.Path.read_text = None; pathlib.Path.glob = None; import classifiers.tasks"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_task_names_the_known_ones():
    with pytest.raises(TaskError, match=rf"unknown task 'ternary': choose one of {', '.join(BUILT_IN)}, or give the"):
        get_task("ternary")


@pytest.mark.parametrize("value", [2, -2, None, "1", 0.5, float("nan"), [1]])
def test_strange_value_is_refused(value):
    with pytest.raises(TaskError, match=r"findings hold .*write 1 for positive, 0 for negative, -1 for uncertain"):
        get_task("binary").targets([{"normal": 1}, {"pneumonia": value}])


OWN = """
description: Fluid, or something solid?
multi_label: true
uncertain: zeros
classes:
  effusion:
  wet: {any: [edema, effusion], none: ['No']}
  solid:
    all: [mass, nodule]
    uncertain: ignore
  edema: {uncertain: ones}
"""


def test_a_task_of_ones_own(tmp_path):
    file = tmp_path / "fluid.yaml"
    file.write_text(OWN)
    assert get_task(str(file)) == Task(
        "fluid",
        (
            Rule("effusion", any=("effusion",), uncertain=Uncertain.ZEROS),
            Rule("wet", any=("edema", "effusion"), none=("No",), uncertain=Uncertain.ZEROS),
            Rule("solid", all=("mass", "nodule"), uncertain=Uncertain.IGNORE),
            Rule("edema", any=("edema",), uncertain=Uncertain.ONES),
        ),
        multi_label=True,
        description="Fluid, or something solid?",
    )
    file.write_text(OWN.replace("zeros", "ignore"))
    assert get_task(str(file)).rules[0].uncertain is Uncertain.IGNORE  # the file is read again


def test_every_mistake_of_a_file_is_told_at_once(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text(
        "descripton: x\nmulti_label: 1\nuncertain: perhaps\nclasses:\n"
        "  a: {any: [x, 3, No], uncertain: never}\n  b: {any: edema, some: [x]}\n  c: {all: []}\n"
        "  d: {all: [x, y], none: [y]}\n  e: {any: [x, x]}\n  e: {any: [y]}\n  f: [x]\n  g: {any: [x], none: [y, x]}\n"
        "  No: {any: [x]}\n"
    )
    with pytest.raises(TaskError) as told:
        get_task(str(file))
    lines = [line.strip() for line in str(told.value).splitlines()]
    assert lines[0] == f"{len(lines) - 2} mistakes in {file}:"
    assert lines[1:-1] == [
        "descripton: no such key; did you mean description?",
        "multi_label: must be true or false",
        "uncertain: must be one of ones, zeros, ignore (got 'perhaps')",
        "classes.e: stands twice; the second is in line 10",
        "a key of classes: YAML reads No as bool; write it in quotes to make it text",
        "classes.a.any.1: YAML reads 3 as int; write it in quotes to make it text",
        "classes.a.any.2: YAML reads No as bool; write it in quotes to make it text",
        "classes.a.uncertain: must be one of ones, zeros, ignore (got 'never')",
        "classes.b.some: no such key; there are any, all, none, uncertain",
        "classes.b.any: must be a list of findings, one at least, as in [Edema, Consolidation]",
        "classes.c.all: must be a list of findings, one at least, as in [Edema, Consolidation]",
        "classes.f: must hold key: value lines",
        "classes.d: wants y both positive (all) and not (none), so it could never hold",
        "classes.e.any: names x more than once",
        "classes.g: wants one of any positive, and none lists them all, so it could never hold",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the file: must hold key: value lines"),
        ("- a\n- b", "the file: must hold key: value lines"),
        ("classes:\n  a:\n", "classes: 1 of them; a single-label task needs 2 at least"),
        ("multi_label: true", "classes: 0 of them; a multi-label task needs 1 at least"),
        ("classes: [a, b]", "classes: must hold key: value lines"),
        ("classes:\n  a:\n  '':\n", "classes.: give the class a name"),
        (
            "classes:\n  a: {any: ['']}\n  b:\n",
            r"classes\.a\.any: must be findings' names in a tuple, none of them blank",
        ),
        ("classes: {a: , ? [b] : }", "a key of classes: must be text"),
        ("classes: {a", "is no YAML"),
        ("a: " + "[" * 1000, "is no YAML"),
    ],
)
def test_what_is_no_task_file(tmp_path, text, told):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(TaskError, match=told) as error:
        get_task(str(file))
    assert str(file) in str(error.value)


def test_a_file_that_can_not_be_read_or_named(tmp_path):
    with pytest.raises(TaskError, match=r"nowhere\.yaml can't be read"):
        get_task("nowhere.yaml")
    (tmp_path / "latin.yaml").write_bytes("classes: {ä: , b: }".encode("latin-1"))
    with pytest.raises(TaskError, match=r"latin\.yaml can't be read"):
        get_task(str(tmp_path / "latin.yaml"))
    (tmp_path / "my task.yaml").write_text("classes: {a: , b: }")
    with pytest.raises(TaskError, match="the file's name is the task's"):
        get_task(str(tmp_path / "my task.yaml"))


@pytest.mark.parametrize(
    ("classes", "told"),
    [((), "classes: 0 of them"), (("normal",), "classes: 1 of them"), (("a", "b", "a"), "classes.a: stands 2 times")],
)
def test_task_needs_different_classes(classes, told):
    with pytest.raises(ClassifierError, match=told):
        Task.exclusive("odd", classes)


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (Rule("a"), "classes.a: has no findings"),
        (Rule("a", any="Edema"), "classes.a.any: must be findings' names in a tuple"),
        (Rule("a", any=("x",), uncertain="often"), "classes.a.uncertain: must be one of ones, zeros, ignore"),
    ],
)
def test_rules_that_say_nothing(rule, told):
    with pytest.raises(TaskError, match=told):
        Task("odd", (rule,), multi_label=True)


def test_findings_that_are_not_there_are_told_with_those_that_are():
    task = Task(
        "lungs",
        (
            Rule("opacity", any=("Edema", "Consolidation")),
            Rule("thick", any=("Pleural_Thickening",)),
            Rule("both", all=("Edema", "MASS")),
            Rule("healthy", none=("Lesion", "Edema")),
            Rule("sound", none=("Lesion",)),
        ),
        multi_label=True,
    )
    with pytest.raises(TaskError) as told:
        task.check_findings(["Edema", "Mass", "Pleural Thickening"])
    assert str(told.value).splitlines()[1:-1] == [
        "  class 'thick': no image mentions 'Pleural_Thickening'; is it spelt 'Pleural Thickening' here?",
        "  class 'both': no image mentions 'MASS'; is it spelt 'Mass' here?",
        "  class 'sound': no image mentions 'Lesion'",
    ]
    assert "Findings that there are: Edema, Mass, Pleural Thickening." in str(told.value)
    with pytest.raises(TaskError, match="Findings that there are: none"):
        task.check_findings([])
    task.check_findings({"Edema", "MASS", "Lesion", "Pleural_Thickening"})


@settings(deadline=None)
@given(tasks(), FINDINGS)
def test_findings_pass_when_every_class_was_positive(task, findings):
    targets = task.targets(findings)
    shown = (targets == 1).any(axis=0) if task.multi_label else np.isin(np.arange(len(task.rules)), targets)
    if shown.all():
        task.check_findings({name for image in findings for name in image})
