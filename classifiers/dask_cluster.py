"""Reaching the workers of a Dask cluster that runs already."""

# Of what distributed exports, half has types.
# mypy: allow-untyped-calls, implicit-reexport

from __future__ import annotations

import importlib.util
from typing import Final

from distributed import Client

from classifiers.errors import HeadError

_SECONDS_TO_CONNECT: Final = 10
#: What of Pleura workers run.
_NEEDED: Final = ("classifiers", "pipelines")


def connect(scheduler: str, otherwise: str) -> Client:
    """A connection to a scheduler that has workers.

    Args:
        scheduler: its address, such as tcp://host:8786.
        otherwise: what one can say in place of an address, for the error.

    Raises:
        HeadError: when nothing answers there, or there are no workers.
    """
    try:
        client = Client(scheduler, timeout=_SECONDS_TO_CONNECT)
    except (OSError, ValueError) as error:
        raise HeadError(
            f"there is no Dask scheduler at {scheduler!r} ({error}): start one (dask scheduler, dask worker), give its "
            f"address, such as tcp://host:8786, or {otherwise}"
        ) from error
    if not names_of_workers(client):
        client.close()
        raise HeadError(f"the Dask scheduler at {scheduler!r} has no workers: start some with dask worker {scheduler}")
    return client


def check_packages(client: Client, scheduler: str) -> None:
    """See that the scheduler and all workers have Pleura.

    Args:
        client: connected to it.
        scheduler: its address.

    Raises:
        HeadError: naming those that do not.
    """
    for name in _NEEDED:
        # Functions of ours can't be sent to who does not have them; one of Python's own can.
        found = client.run(importlib.util.find_spec, name)
        found["the scheduler"] = client.run_on_scheduler(importlib.util.find_spec, name)
        if without := [address for address, spec in found.items() if spec is None]:
            raise HeadError(
                f"{', '.join(without)} of the Dask cluster at {scheduler!r} can't import Pleura ({name}): install "
                "this version of it in the environment of the scheduler and of all workers"
            )


def names_of_workers(client: Client) -> dict[str, str]:
    """The name of each worker, by its address, as the scheduler knows them now.

    Not `Client.scheduler_info`: a timer of its own now and then empties the list that it has just asked for.
    """
    assert client.scheduler is not None
    identity = client.sync(client.scheduler.identity, n_workers=-1)
    return {address: str(worker["name"]) for address, worker in identity["workers"].items()}
