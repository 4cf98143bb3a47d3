"""Where joblib's work goes: this process, Dask workers on this machine, or those of a scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import joblib

from classifiers.errors import HeadError

#: Dask workers on this machine, one per core.
LOCAL: Final = "local"
_SECONDS_TO_CONNECT: Final = 10


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

    if scheduler == LOCAL:
        with (
            LocalCluster(threads_per_worker=1, dashboard_address=None) as cluster,  # type: ignore[no-untyped-call]
            Client(cluster) as client,  # type: ignore[no-untyped-call]
            joblib.parallel_config("dask", client=client),
        ):
            yield
        return
    try:
        client = Client(scheduler, timeout=_SECONDS_TO_CONNECT)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise HeadError(
            f"there is no Dask scheduler at {scheduler!r} ({error}): start one (dask scheduler, dask worker), give its "
            f"address, such as tcp://host:8786, or say {LOCAL!r}"
        ) from error
    with client:
        if not client.scheduler_info(n_workers=-1)["workers"]:
            raise HeadError(
                f"the Dask scheduler at {scheduler!r} has no workers: start some with dask worker {scheduler}"
            )
        with joblib.parallel_config("dask", client=client):
            yield
