"""Audit a lake: are its books in order, and if not, what is to be done.

Prints inputs, studies, quarantine by reason, duplicates, splits by patient, class counts, table sizes, committed and
dead runs. Reads only. Exit code 0: in order; 2: not, with what to look at at the end.

With locate=URI: prints the path of the file that a pseudonymous uri of studies or quarantine stands for.

examples:
  spark-submit jobs/audit_lake.py lake=/data/lake
  spark-submit jobs/audit_lake.py lake=/data/lake examples=0 out=/var/monitoring/lake.json
  python jobs/audit_lake.py lake=/data/lake dataset=pacs locate=3fa1….dcm pseudonym_key_file=pleura.key
"""

import _root  # noqa: F401

from pipelines.audit import AuditConfig, audit
from pipelines.job import run_job

if __name__ == "__main__":
    run_job(__file__, __doc__, AuditConfig, audit)
