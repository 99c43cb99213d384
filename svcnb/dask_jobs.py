"""Parallel jobs on a dask cluster: workers on this machine, or on as many as its scheduler knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from svcnb import MissingExtra, SvcError

LOCAL = "local"
CONNECT_SECONDS = 10


@contextmanager
def dask_jobs(address: str, *, n_workers: int = -1) -> Iterator[None]:
    """Inside, joblib sends its parallel jobs (those with n_jobs=-1) to a dask cluster.

    Args:
        address: "local" starts workers here and ends them again; else that of a running scheduler, for example
            tcp://host:8786. Its workers need this package, and see the same folders under the same paths.
        n_workers: processes for "local", -1 for one per core.

    Raises:
        MissingExtra: dask is not installed.
        SvcError: no scheduler answers, or a worker was killed again and again.
    """
    try:
        from distributed import Client, KilledWorker, LocalCluster
    except ImportError as error:
        raise MissingExtra('dask is not installed: pip install "svcnb[cluster]"') from error
    from joblib import cpu_count, parallel_config

    place = address
    if address == LOCAL:
        # One thread each: a network uses as many threads as it gets, and results differ by rounding between them.
        n_processes = cpu_count() if n_workers == -1 else n_workers
        place = LocalCluster(n_workers=n_processes, threads_per_worker=1, dashboard_address=":0", memory_limit=None)
    try:
        with _connected(Client, place), parallel_config(backend="dask"):
            yield
    except KilledWorker as error:
        raise SvcError("a dask worker was killed again and again, mostly for lack of memory: what was finished is kept; "
                       "run the same again with fewer workers") from error  # fmt: skip
    finally:
        if place is not address:
            place.close()


def _connected(client_class: type, place: object) -> object:
    try:
        return client_class(place, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise SvcError(f"no dask scheduler answers at {place} ({error}): start one (dask scheduler), "
                       'check the address, or give "local"') from None  # fmt: skip
