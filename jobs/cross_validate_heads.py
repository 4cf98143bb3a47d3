"""Cross-validate heads and ways of balancing classes, all on the same folds of patients: one page, figures as CSV.

Rows are those of the splits train and val; test is not touched. The majority baseline stands beside every result. Pairs
that do not go together (focal with a head other than mlp, smote with labels) are skipped, and told. Every setting is
kept as soon as it is done, so that the same command goes on where it was broken off. Needs neither Spark nor Java.

examples:
  python jobs/cross_validate_heads.py lake=/data/lake tasks=binary 'balances=[none,class_weight,smote]'
  python jobs/cross_validate_heads.py lake=/data/lake 'tasks=[binary,three_class]' 'heads=[logistic,mlp]' folds=10
  python jobs/cross_validate_heads.py lake=/data/lake tasks=binary heads=mlp params.mlp.dropout=0.5 name=dropout
"""

import _root  # noqa: F401

from pipelines.cross_validate import cross_validate_heads
from pipelines.cross_validation_grid import CrossValidationConfig
from pipelines.job import run_job

if __name__ == "__main__":
    run_job(__file__, __doc__, CrossValidationConfig, cross_validate_heads)
