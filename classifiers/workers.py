"""Where joblib's work goes: this process, Dask workers on this machine, or those of a scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import joblib

#: Dask workers on this machine, one per core.
LOCAL: Final = "local"


@contextmanager
def workers(scheduler: str | None) -> Iterator[None]:
    """Where joblib's work goes while the body runs.

    Args:
        scheduler: None for this process, `local`, or the address of a Dask scheduler, whose workers must be able to
            import this package.

    Raises:
        HeadError: when there is no such scheduler, or it has no workers.
    """
    if scheduler is None:
        yield
        return
    # Takes half a second to load, and most searches do without.
    from distributed import Client, LocalCluster  # noqa: PLC0415

    from classifiers.dask_cluster import connect  # noqa: PLC0415

    if scheduler == LOCAL:
        with (
            LocalCluster(threads_per_worker=1, dashboard_address=None) as cluster,  # type: ignore[no-untyped-call]
            Client(cluster) as client,  # type: ignore[no-untyped-call]
            joblib.parallel_config("dask", client=client),
        ):
            yield
        return
    with connect(scheduler, f"say {LOCAL!r}") as client, joblib.parallel_config("dask", client=client):
        yield
