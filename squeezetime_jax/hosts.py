"""Several hosts as one program: they find each other, agree, exchange objects and end together.

With a single process, everything here returns at once.
"""

import contextlib
import hashlib
import os
import pickle
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from squeezetime_jax.errors import UserError

# Seconds between two signs of life of a host, and without one before the others end.
BEAT, LIMIT = 3.0, 30.0
# Seconds for which a file that host 0 wrote may stay invisible on a network file system.
_VISIBLE_WITHIN = 20.0
_ALIVE, _FAILED, _ENDED = (f"squeezetime/{name}" for name in ("alive", "failed", "ended"))
_DAY = 24 * 60 * 60 * 1000  # milliseconds


def connect(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    force: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> bool:
    """Join the other processes of the run, if there are any; the first thing a command does.

    Args:
      coordinator: `host:port` of process 0. Default: `JAX_COORDINATOR_ADDRESS`, or the cluster's.
      num_processes: processes in the run. Default: `JAX_NUM_PROCESSES`, or the cluster's.
      process_id: this process, from 0. Default: `JAX_PROCESS_ID`, or the cluster's.
      force: let JAX look for a cluster even if the environment variables show none (a Cloud TPU VM
        learns of its slice over the network).
      environment: the environment variables.

    Returns:
      Whether this process has joined others.

    Raises:
      UserError: only some of the three are known, or the others cannot be reached.
    """
    if jax.distributed.is_initialized():
        return True
    coordinator = coordinator or environment.get("JAX_COORDINATOR_ADDRESS")
    num_processes = _number(num_processes, "JAX_NUM_PROCESSES", environment)
    process_id = _number(process_id, "JAX_PROCESS_ID", environment)
    known = [coordinator is not None, num_processes is not None, process_id is not None]
    if any(known) and not all(known):
        raise UserError(
            "distributed: only some of coordinator address, number of hosts and host id are given;"
            " give --coordinator, --num-hosts and --host-id together, or none of them"
        )
    if not (any(known) or force or in_cluster(environment)):
        return False
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"distributed: cannot join the run: {reason}; check that process 0 is running, that its"
            " port is open and that every process has the same address"
        ) from error
    return True


def in_cluster(environment: Mapping[str, str]) -> bool:
    """Whether the environment says that this process is one of several (SLURM, GKE, TPU slice)."""
    tasks = environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS") or "1"
    return (
        ("SLURM_PROCID" in environment and tasks != "1")
        or ("KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment)
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
        or "MEGASCALE_COORDINATOR_ADDRESS" in environment
    )


def _number(given: int | None, name: str, environment: Mapping[str, str]) -> int | None:
    if given is not None or name not in environment:
        return given
    try:
        return int(environment[name])
    except ValueError:
        raise UserError(f"{name} must be a number, got {environment[name]!r}") from None


def is_main() -> bool:
    """Whether this process is the one that writes files and reports."""
    return jax.process_index() == 0


def put_everywhere(tree: Any, mesh: Mesh) -> Any:
    """Copy a tree of arrays, the same in every process, to every device, as new buffers."""
    if jax.process_count() == 1:
        return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()), may_alias=False)
    return multihost_utils.host_local_array_to_global_array(tree, mesh, PartitionSpec())


def gather(value: Any) -> list[Any]:
    """The values of all hosts, in their order; every host has to call it.

    Args:
      value: of this host; anything that pickles.
    """
    if jax.process_count() == 1:
        return [value]
    meet("gather")
    content = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(len(content)))
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: len(content)] = content
    rows = multihost_utils.process_allgather(padded)
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def agree(what: str, value: Sequence[Any], remedy: str) -> None:
    """Check that all hosts have the same values; every host has to call it.

    Args:
      what: their name in the message.
      value: items in order; the message has the first that differs.
      remedy: what to do otherwise.

    Raises:
      UserError: on all hosts, naming the first host that differs.
    """
    first, *others = gather(list(value))
    for host, other in enumerate(others, 1):
        if other != first:
            longest = max(len(first), len(other))
            pairs = zip(_filled(first, longest), _filled(other, longest), strict=True)
            mine, theirs = next(pair for pair in pairs if pair[0] != pair[1])
            raise UserError(
                f"{what}: host 0 has {mine}, host {host} has {theirs}; every host must have the"
                f" same: {remedy}"
            )


def _filled(items: list[Any], length: int) -> list[Any]:
    return items + ["nothing"] * (length - len(items))


def digest(value: Any) -> str:
    """A short hash of a tree of arrays, numbers and texts."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(value):
        if hasattr(leaf, "dtype"):
            array = np.asarray(leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf)
            found.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
        else:
            found.update(repr(leaf).encode() + b"\0")
    return found.hexdigest()[:12]


def first_host_makes(make: Callable[[], object], what: str) -> None:
    """Make files that all hosts read: host 0 makes them while the others wait.

    Args:
      make: makes them, or returns at once if they are there.
      what: their name, the same on all hosts.
    """
    if is_main():
        make()
    meet(what)


def meet(what: str) -> None:
    """Wait for all hosts, however long; every host has to call it.

    It comes before the first collective of a program: collectives on CPUs give up where hosts begin
    with them more than 30 seconds apart, as after compiling on a busy machine.

    Args:
      what: why they meet, the same on all hosts.
    """
    if jax.process_count() > 1:
        count = _met[what] = _met.get(what, 0) + 1
        _client().wait_at_barrier(f"squeezetime/{what}/{count}", _DAY)


_met: dict[str, int] = {}


def check_shared(folder: Path, option: str) -> None:
    """Check that all hosts see one folder, by a file that host 0 writes; it is made if missing.

    Args:
      folder: the folder.
      option: its name for the user.

    Raises:
      UserError: on all hosts, naming those that do not see the file.
    """
    if jax.process_count() == 1:
        return
    (name, *_) = gather(f".host0-{uuid.uuid4().hex}")
    file = folder / name
    if is_main():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file.touch()
        except OSError as error:
            raise UserError(f"{option} {folder}: cannot be written ({error.strerror})") from error
    gather(None)  # host 0 has written it
    found = gather(wait_for(file.exists, _VISIBLE_WITHIN))
    if is_main():
        file.unlink(missing_ok=True)
    if not all(found):
        blind = ", ".join(str(host) for host, sees in enumerate(found) if not sees)
        raise UserError(
            f"{option} {folder}: host {blind} does not see what host 0 writes there; it must be one"
            " folder that all hosts share (NFS, Filestore, or a bucket mounted as a folder)"
        )


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether a condition becomes true within a time."""
    deadline = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return holds


@contextlib.contextmanager
def together(
    name: str,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    force: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> Iterator[None]:
    """Join the other hosts; within the context, an error or the death of one host ends all.

    A host that fails prints its error, the others a line that names it, and all exit with status 1.
    With a single process, errors pass through.

    Args:
      name: of the program, in front of such lines.
      coordinator: as `connect`.
      num_processes: as `connect`.
      process_id: as `connect`.
      force: as `connect`.
      environment: as `connect`.
    """
    if not connect(
        coordinator, num_processes, process_id, force=force, environment=environment
    ) or (jax.process_count() == 1):
        yield
        return
    watch = _Watch(name)
    watch.start()
    try:
        yield
        # Nobody leaves before all are done: host 0 takes the others' connection with it.
        meet("done")
    except BaseException as error:
        watch.fail(error)
    watch.stop()


def _client() -> Any:
    """The store of texts that all hosts share, which JAX keeps on host 0."""
    from jax._src import distributed  # JAX has no public name for it

    return distributed.global_state.client


class _Watch(threading.Thread):
    """Shows this host's signs of life, and ends it when another host fails or shows none."""

    def __init__(self, name: str):
        super().__init__(daemon=True)
        self._program, self._client = name, _client()
        self._me, self._count = jax.process_index(), jax.process_count()
        self._over = threading.Event()
        self._leaving = threading.Lock()  # taken once, by whoever ends the process

    def run(self) -> None:
        """Look every few seconds."""
        beat, seen = 0, dict.fromkeys(range(self._count), ("", time.monotonic()))
        while not self._over.wait(BEAT):
            beat += 1
            try:
                self._client.key_value_set(f"{_ALIVE}/{self._me}", str(beat), allow_overwrite=True)
                failed, alive = self._read(_FAILED), self._read(_ALIVE)
            except jax.errors.JaxRuntimeError:  # host 0 does not answer
                failed, alive = {}, {}
            now = time.monotonic()
            for host, text in alive.items():
                if text != seen[host][0]:
                    seen[host] = text, now
            for host, reason in failed.items():
                self._leave(f"host {host} failed: {reason}", 1)
            for host, (_, since) in seen.items():
                if now - since > LIMIT and not self._over.is_set():
                    self._leave(
                        f"host {host} has given no sign of life for {LIMIT:.0f} s: it was killed,"
                        " or cannot be reached; start the same command again on all hosts",
                        1,
                    )

    def stop(self) -> None:
        """All hosts are done."""
        self._over.set()
        self.join()

    def fail(self, error: BaseException) -> NoReturn:
        """End this process, and thereby all others, after an error."""
        if isinstance(error, UserError):
            line, status = str(error), 1
        elif isinstance(error, KeyboardInterrupt):
            line, status = "interrupted", 128 + 2
        else:
            # Perhaps because another host is gone; then the watch says so, and ends the process.
            self.join(LIMIT + 2 * BEAT)
            with self._leaving:
                traceback.print_exception(error)
            line = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            status = 1
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._client.key_value_set(f"{_FAILED}/{self._me}", line)
        self._leave(line, status)

    def _leave(self, line: str, status: int) -> NoReturn:
        self._leaving.acquire()
        print(f"{self._program}: {line}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._client.key_value_set(f"{_ENDED}/{self._me}", "")
            if self._me == 0:  # the others read the reason from this process
                wait_for(lambda: len(self._read(_ENDED)) == self._count, 3 * BEAT)
        # Not sys.exit: JAX would wait for minutes for hosts that are gone.
        os._exit(status)

    def _read(self, folder: str) -> dict[int, str]:
        """What the hosts wrote, by host."""
        found = self._client.key_value_dir_get(f"{folder}/")
        return {int(key.rsplit("/", 1)[1]): value for key, value in found}
