"""Finished settings of a cross-validation, kept one by one, so that a job that was killed loses none of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from classifiers.cross_validation import CrossValidated, FoldResult
from classifiers.evaluation import Evaluation
from classifiers.paired import Answers
from pipelines.folders import RUN_PREFIX, Folder

#: In a run: per setting a table of what its heads said of every image, and what that was worth.
SETTINGS = "settings"


@dataclass(frozen=True)
class FinishedSettings:
    """Settings of this run, and those that earlier runs left, committed or not.

    Attributes:
        run: that settings are kept in.
        earlier: the `SETTINGS` folders of other runs with the names of their files, newest first.
    """

    run: Folder
    earlier: tuple[tuple[Folder, frozenset[str]], ...]

    @classmethod
    def of(cls, comparison: Folder, run: Folder) -> FinishedSettings:
        """Look for what was left.

        Args:
            comparison: the folder of all runs.
            run: the new one.
        """
        others = [comparison / name / SETTINGS for name in comparison.names() if name.startswith(RUN_PREFIX)]
        return cls(run, tuple((folder, frozenset(folder.names())) for folder in reversed(others)))

    def find(self, name: str, identity: str) -> CrossValidated | None:
        """What is left of a setting; copied into this run, which is whole without the others.

        Args:
            name: the setting's.
            identity: changes with whatever could change its figures.
        """
        for folder, files in self.earlier:
            if f"{name}.json" not in files:
                continue
            about = folder.read_json(f"{name}.json")
            if about["identity"] == identity:
                table = folder.read(f"{name}.parquet")
                self._write(name, about, table)
                return _read(about, table)
        return None

    def keep(self, name: str, identity: str, result: CrossValidated, image_ids: NDArray[np.str_]) -> None:
        """Keep a setting that is done.

        Args:
            name: the setting's.
            identity: see `find`.
            result: what it gave.
            image_ids: (n,), of the rows that it was judged on.
        """
        classes = list(result.evaluation.per_class)
        probabilities, decisions = result.answers
        columns = {"image_id": pa.array(image_ids), "fold": pa.array(result.fold_of)}
        columns |= {f"probability_{each}": pa.array(probabilities[:, i]) for i, each in enumerate(classes)}
        columns |= {f"decision_{each}": pa.array(decisions[:, i]) for i, each in enumerate(classes)}
        file = BytesIO()
        pq.write_table(pa.table(columns), file)
        about = {
            "identity": identity,
            "evaluation": result.evaluation.as_dict(),
            "folds": [asdict(fold) for fold in result.folds],
        }
        self._write(name, about, file.getvalue())

    def _write(self, name: str, about: dict[str, Any], table: bytes) -> None:
        # The JSON last: a setting is there when it is.
        (self.run / SETTINGS).write(f"{name}.parquet", table)
        (self.run / SETTINGS).write_json(f"{name}.json", about)


def _read(about: dict[str, Any], table: bytes) -> CrossValidated:
    columns = pq.read_table(BytesIO(table))

    def matrix(prefix: str) -> NDArray[Any]:
        names = [name for name in columns.column_names if name.startswith(prefix)]
        return np.stack([columns[name].to_numpy() for name in names], axis=1)

    return CrossValidated(
        Answers(matrix("probability_"), matrix("decision_")),
        Evaluation.from_dict(about["evaluation"]),
        columns["fold"].to_numpy(),
        tuple(FoldResult(**fold) for fold in about["folds"]),
    )
