"""One function over many files, several at a time: on threads of this process, or on the workers of a Dask cluster."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from gm import places
from gm.console import progress
from gm.errors import UserError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_TIMEOUT = 30  # seconds in which the scheduler must answer
_AHEAD = 4  # items that each thread of the cluster is given at a time: enough that none waits


def spread(
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    workers: int,
    scheduler: str | None = None,
    *,
    desc: str,
    unit: str,
    given_up: Callable[[_Item, str], _Result] | None = None,
) -> Iterator[_Result]:
    """The results of function(item), each as soon as it is there, in any order, under a progress bar.

    workers: threads. scheduler: address of a Dask scheduler, such as "tcp://head:8786", whose workers are used instead;
    they must have this program, at the same version, and see the files under the same paths. What a worker that dies
    was working on goes to another one; given_up(item, reason) is the result of an item over which as many died as
    Dask's setting distributed.scheduler.allowed-failures bears (3).

    function: on a cluster it and the items are sent there, and it must raise nothing.

    Raises:
        UserError: a cluster that does not answer, is lost, or cannot run the program.
    """
    items = list(items)
    if scheduler is None:
        done = _on_threads(function, items, workers)
    else:
        done = _on_cluster(function, items, scheduler, given_up)
    with contextlib.closing(done):
        yield from progress(done, desc, unit, len(items))


def _on_threads(
    function: Callable[[_Item], _Result], items: list[_Item], workers: int
) -> Generator[_Result, None, None]:
    with ThreadPoolExecutor(workers) as pool:
        try:
            yield from pool.map(function, items)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _on_cluster(
    function: Callable[[_Item], _Result],
    items: list[_Item],
    scheduler: str,
    given_up: Callable[[_Item, str], _Result] | None,
) -> Generator[_Result, None, None]:
    distributed = _library()
    try:
        client = distributed.Client(scheduler, timeout=_TIMEOUT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UserError(f"no Dask scheduler answers at {scheduler}: {error}") from error
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise UserError(f"the Dask scheduler at {scheduler} has no workers yet: start some, see docs/datasets.md")
        rest, item_of = iter(items), {}

        def submit(count: int) -> list[Any]:
            futures = {client.submit(function, item, pure=False): item for item in itertools.islice(rest, count)}
            item_of.update(futures)
            return list(futures)

        running = distributed.as_completed(submit(_AHEAD * threads), loop=client.loop)
        for future in running:
            item = item_of.pop(future)
            try:
                yield future.result()
            except distributed.KilledWorker as error:
                if given_up is None:
                    raise UserError(f"{item}: {error}") from error
                yield given_up(item, f"{item}: {error}")
            except (distributed.CancelledError, OSError) as error:
                raise UserError(f"the Dask scheduler at {scheduler} was lost: {error}") from error
            except ImportError as error:
                raise UserError(
                    f"the workers of {scheduler} cannot run this program: {error}; start them in its "
                    "folder and with its packages, see docs/datasets.md"
                ) from error
            for new in submit(1):
                running.add(new)


def _library() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise UserError(f"--scheduler needs Dask: {places.install('cluster')}") from error
    return distributed
