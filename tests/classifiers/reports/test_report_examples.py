from __future__ import annotations

import numpy as np
from drawn_heads import FOURTEEN, THREE, decide, draw_answers

from classifiers.reports.examples import worst_errors
from classifiers.trained import Scores

IDS = np.array([f"{row:064x}" for row in range(500)])


def scores_of(task, probabilities):
    return Scores(probabilities, decide(task, probabilities), probabilities)


def test_single_label_errors_come_surest_first():
    p = np.array([[0.6, 0.3, 0.1], [0.1, 0.9, 0.0], [0.5, 0.5, 0.0], [0.2, 0.1, 0.7], [0.0, 0.0, 1.0]])
    y = np.array([1, 0, 0, 1, -1])
    found = worst_errors(THREE, y, scores_of(THREE, p), IDS[:5])
    assert [(one.image_id, one.truth, one.decided, one.probability) for one in found] == [
        (IDS[1], "normal", "viral", 0.9),
        (IDS[3], "viral", "bacterial", 0.7),
        (IDS[0], "viral", "normal", 0.6),
    ]
    assert all(one.crop is None for one in found)
    assert found[0].with_crop(b"png").crop == b"png"


def test_errors_are_errors_and_no_more_than_asked():
    for task in (THREE, FOURTEEN):
        y, p = draw_answers(task, 500)
        scores = scores_of(task, p)
        found = worst_errors(task, y, scores, IDS, limit=8)
        assert len(found) == 8
        assert all(one.truth != one.decided for one in found)
        assert worst_errors(task, y, scores, IDS, limit=0) == []


def test_no_label_fills_the_list():
    y, p = draw_answers(FOURTEEN, 500)
    # The first label is always surely wrong; the others err as they do.
    p[:, 0] = 1 - np.clip(y[:, 0], 0, 1)
    found = worst_errors(FOURTEEN, y, scores_of(FOURTEEN, p), IDS, limit=12)
    named = [one.decided.removeprefix("no ") for one in found]
    assert named.count("Atelectasis") == 2
    assert len(set(named)) >= 6
    missed = [one for one in found if one.decided.startswith("no ")]
    assert len(missed) == 6
    assert all(one.truth == one.decided.removeprefix("no ") for one in missed)


def test_unknown_entries_are_never_errors():
    y = np.full((3, 14), -1, np.int8)
    y[0, 2] = 1
    p = np.full((3, 14), 0.9)
    p[0, 2] = 0.2
    (only,) = worst_errors(FOURTEEN, y, scores_of(FOURTEEN, p), IDS[:3])
    assert (only.image_id, only.truth, only.decided, only.probability) == (IDS[0], "Effusion", "no Effusion", 0.8)


def test_a_head_without_errors_gives_none():
    p = np.eye(3)
    assert worst_errors(THREE, np.arange(3), scores_of(THREE, p), IDS[:3]) == []
