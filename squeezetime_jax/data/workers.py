"""The same work on many files, in many processes, in order; and the progress bar of such work."""

import collections
import contextlib
import itertools
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import TimeoutError
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool
from rich import console, progress

from squeezetime_jax.errors import UserError
from squeezetime_jax.machine import available_cpus

Item = TypeVar("Item")
Result = TypeVar("Result")

# A clip that takes longer to read hangs.
CLIP_SECONDS = 300.0
_given_up: set[Hashable] = set()  # files that this process has given up
_AHEAD = 4  # items under way per process: enough to keep all busy, few enough to fit in memory
_run: Callable[[Any], Any]  # in a worker: the function


def each(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    processes: int | None = None,
    *,
    name: Callable[[Item], str] = str,
    seconds: Callable[[Item], float] = lambda item: 0.0,
    ahead: int | None = None,
) -> Iterator[tuple[Item, Result | UserError]]:
    """Call a function on each item in other processes; results in the order of the items.

    An item that crashes its process or takes too long costs only itself: the process is ended and
    replaced.

    Args:
      function: picklable; sent once to each process.
      items: picklable; taken only as they are needed.
      processes: how many at once; by default one per available processor.
      name: what errors call an item.
      seconds: time limit of an item; 0: none.
      ahead: items under way, waiting results included; by default four per process.

    Yields:
      The item with the result, or with the `UserError` that the function raised or that says how
      the process ended.
    """
    processes = processes or available_cpus()
    ahead = ahead or _AHEAD * processes
    rest = iter(items)
    waiting: collections.deque[tuple[Item, Any]] = collections.deque()
    pool = ProcessPool(
        processes,
        initializer=_start_worker,
        initargs=(function,),
        context=multiprocessing.get_context("spawn"),  # a fork's copied locks may hang
    )
    try:
        while True:
            for item in itertools.islice(rest, ahead - len(waiting)):
                waiting.append((item, pool.schedule(_call, (item,), timeout=seconds(item) or None)))
            if not waiting:
                return
            item, future = waiting.popleft()
            try:
                yield item, future.result()
            except UserError as error:
                yield item, error
            except TimeoutError:
                yield (
                    item,
                    UserError(f"{name(item)}: not done after {seconds(item):.0f} seconds"),
                )
            except ProcessExpired as error:
                code = error.exitcode
                yield item, UserError(f"{name(item)}: the process died (exit code {code})")
    finally:
        pool.stop()
        pool.join()


def here(
    function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[tuple[Item, Result | UserError]]:
    """As `each`, in this process and one at a time."""
    for item in items:
        try:
            yield item, function(item)
        except UserError as error:
            yield item, error


def limited(
    function: Callable[..., Result],
    *args: Any,
    name: str,
    file: Hashable = None,
    seconds: float | None = None,
) -> Result:
    """Call a function that may hang, in a thread that is then given up.

    A thread that decodes cannot be ended from outside. It goes on at the lowest priority, which
    takes only idle processors, and does not keep the process from ending. What was given up once is
    not tried again.

    Args:
      function: what may hang.
      *args: of the function.
      name: of the file that is read, for the error.
      file: which file it is; None: the one of this name.
      seconds: time limit; None: that of a clip.

    Raises:
      UserError: it was not done in time.
      Exception: any that the function raises.
    """
    seconds = CLIP_SECONDS if seconds is None else seconds
    error = UserError(f"{name}: not done after {seconds:.0f} seconds; replace or remove it")
    file = name if file is None else file
    if file in _given_up:
        raise error
    done = threading.Event()
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.extend((function(*args), None))
        except BaseException as raised:
            outcome.extend((None, raised))
        done.set()

    thread = threading.Thread(target=run, name="limited", daemon=True)
    thread.start()
    if not done.wait(seconds):
        with contextlib.suppress(AttributeError, OSError):  # Linux only
            os.sched_setscheduler(thread.native_id or 0, os.SCHED_IDLE, os.sched_param(0))
        _given_up.add(file)
        raise error
    result, raised = outcome
    if raised is not None:
        raise raised
    return result


def is_terminal(stream: Any) -> bool:
    """Whether a progress bar can move on a stream.

    A notebook runs commands on what looks like a terminal, and shows every state of a bar in a line
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


def _start_worker(function: Callable[[Any], Any]) -> None:
    global _run
    _run = function
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker that is busy when its parent is killed would work on for nobody."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(item: Any) -> Any:
    return _run(item)
