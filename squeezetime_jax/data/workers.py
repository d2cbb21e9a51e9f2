"""The same work on many files in many processes, in order, outliving a process that dies."""

import collections
import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Generic, TypeVar

from rich import console, progress

from squeezetime_jax.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 4  # items under way per process: enough to keep all busy, few enough to fit in memory


def each(
    function: Callable[[Item], Result], items: Iterable[Item], processes: int | None = None
) -> Iterator[tuple[Item, Result | UserError]]:
    """Call a function on each item in other processes; results in the order of the items.

    An item on which the process dies (a crash of the decoder) is tried once more alone and then
    reported; the others are not lost.

    Args:
      function: picklable.
      items: picklable.
      processes: how many at once; by default one per core.

    Yields:
      The item with the result, or with the `UserError` that the function raised.
    """
    processes = processes or os.cpu_count() or 1
    rest = iter(items)
    waiting: collections.deque[tuple[Item, Future[Result | UserError]]] = collections.deque()
    with _Pool(function, processes) as many, _Pool(function, 1) as alone:
        while True:
            for item in itertools.islice(rest, _AHEAD * processes - len(waiting)):
                waiting.append((item, many.submit(item)))
            if not waiting:
                return
            item, future = waiting.popleft()
            try:
                yield item, future.result()
            except BrokenProcessPool:
                yield item, alone.run(item)


def is_terminal(stream: Any) -> bool:
    """Whether a moving bar can be drawn on a stream.

    A notebook runs commands on what passes for a terminal, and shows every state of a bar in a line
    of its own.
    """
    return stream.isatty() and "JPY_PARENT_PID" not in os.environ


@contextlib.contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error; yields the function that advances it by a number of items."""
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    screen = console.Console(stderr=True, force_terminal=is_terminal(sys.stderr))
    with progress.Progress(*columns, console=screen) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


class _Pool(Generic[Item, Result]):
    """A process pool that is replaced when one of its processes has died; started when needed."""

    def __init__(self, function: Callable[[Item], Result], processes: int) -> None:
        self._function = function
        self._processes = processes
        self._executor = self._start()

    def __enter__(self) -> "_Pool[Item, Result]":
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(cancel_futures=True)

    def submit(self, item: Item) -> "Future[Result | UserError]":
        try:
            return self._executor.submit(_outcome, self._function, item)
        except BrokenProcessPool:
            self._executor.shutdown(cancel_futures=True)
            self._executor = self._start()
            return self._executor.submit(_outcome, self._function, item)

    def run(self, item: Item) -> Result | UserError:
        """The outcome of an item that has the pool to itself.

        One item's crash takes the others in a pool along; alone, each tells whether it was it.
        """
        try:
            return self.submit(item).result()
        except BrokenProcessPool:
            return UserError(f"{item}: the process that read it died; replace or remove the file")

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            self._processes,
            mp_context=multiprocessing.get_context("spawn"),  # a fork's copied locks may hang
            initializer=_start_worker,
        )


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed tells nobody: its pools would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _outcome(function: Callable[[Item], Result], item: Item) -> Result | UserError:
    try:
        return function(item)
    except UserError as error:
        return error
