"""From records to batches on the devices, whatever the task.

Grain reads; this module says what and in which order.

Nothing is random but through a generator derived from (seed, epoch, record), and the order of the
records through Grain's shuffle, derived from (seed, epoch). So a sample does not depend on threads,
worker processes or hosts, and the only position worth saving is the number of batches taken:
`endless_batches(..., start_step=n)` goes on with batch n, to the bit.
"""

import contextlib
import functools
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import jax
import numpy as np
from absl import flags

from squeezetime_jax.errors import UserError

_log = logging.getLogger(__name__)

Batch = dict[str, np.ndarray]
Sample = dict[str, Any]
DrawSample = Callable[[np.random.Generator, int], Sample]

# Share of a data set's videos that training may replace before it is an error.
MAX_BAD_SHARE = 0.01
# Records tried in the place of a bad one; so many in a row are no accident.
_REPLACEMENTS = 8
_AHEAD = 2  # batches on the devices before they are asked for
# Of decoded samples that wait for their batch: two batches' worth, unless that is more memory.
_WAITING_BATCHES, _WAITING_BYTES = 2, 1 << 30


class UnreadableRecord(UserError):
    """A record that another one may stand in for.

    Attributes:
      name: of the record, by which it is counted once.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(reason)
        self.name = name


class TrainBatches:
    """Endless training batches of this host, in order; an iterator to be closed.

    Each holds the samples' arrays, stacked: (n, ...), n this host's share.

    Attributes:
      bad_videos: name -> reason of the videos that other records stood in for so far.
    """

    def __init__(self, batches: grain.IterDataset, num_videos: int) -> None:
        self.bad_videos: dict[str, str] = {}
        self._limit = MAX_BAD_SHARE * num_videos
        self._batches = iter(batches)

    def __iter__(self) -> "TrainBatches":
        return self

    def __next__(self) -> Batch:
        batch = next(self._batches)
        for name, reason in batch.pop("bad"):
            if name not in self.bad_videos:
                self.bad_videos[name] = reason
                _log.warning(
                    "unreadable video %d, another stands in: %s", len(self.bad_videos), reason
                )
        if len(self.bad_videos) > self._limit:
            raise _too_many(self.bad_videos)
        return batch

    def close(self) -> None:
        """Stop the threads and processes behind it."""
        self._batches.close()


def endless_batches(
    draw: DrawSample,
    num_records: int,
    *,
    batch_size: int,
    seed: int,
    sample_bytes: int,
    workers: int = 0,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> TrainBatches:
    """Shuffled batches of samples without end; every epoch shows each record once.

    A record that cannot be read is replaced by another, drawn from (seed, epoch, record). More than
    `MAX_BAD_SHARE` of such records is an error.

    Args:
      draw: the arrays of a record's sample, drawn with the generator; may raise UnreadableRecord,
        and then another record stands in. It must be picklable where there are workers.
      num_records: records of an epoch.
      batch_size: samples of a global batch; a multiple of `process_count`.
      seed: of order and samples.
      sample_bytes: size of a sample, about, for how many wait to be taken.
      workers: decoding processes; 0: threads of this process.
      start_step: batches to leave out: where a resumed run stood.
      process_index: this host.
      process_count: hosts; each gets its own part of every batch.

    Raises:
      UserError: the batch does not divide, or there are fewer records than a batch holds.
    """
    local_size = _local_size(batch_size, process_count)
    if num_records < batch_size:
        raise UserError(
            f"batch_size: found {batch_size}, more than the source's {num_records} videos; choose a"
            " smaller batch"
        )
    numbers = grain.MapDataset.range(num_records).shuffle(seed % 2**32).repeat()
    samples = numbers.map_with_index(functools.partial(_training_sample, draw, num_records, seed))
    samples = samples[process_index::process_count][start_step * local_size :]
    batches = _read(samples, workers, _ahead(local_size, sample_bytes))
    return TrainBatches(batches.batch(local_size, batch_fn=_collate), num_records)


class EvalBatches:
    """The batches of one evaluation on this host; an iterator to be closed.

    Each holds the samples' arrays, stacked, (n, ...), with `video_ids`, int32 (n,), the records'
    numbers, and `mask`, bool (n,): rows where it is false are padding, or records that cannot be
    read. Every host gets the same number of batches.

    Attributes:
      unreadable: name -> reason of the videos that could not be read so far.
    """

    def __init__(self, batches: grain.IterDataset, number: int, skip_unreadable: bool) -> None:
        self.unreadable: dict[str, str] = {}
        self._skips = skip_unreadable
        self._batches = iter(batches)
        self._number = number

    def __iter__(self) -> "EvalBatches":
        return self

    def __len__(self) -> int:
        return self._number

    def __next__(self) -> Batch:
        try:
            batch = next(self._batches)
        except StopIteration:
            if self.unreadable and not self._skips:
                raise _unreadable(self.unreadable) from None
            raise
        self.unreadable.update(batch.pop("bad"))
        return batch

    def close(self) -> None:
        """Stop the threads and processes behind it."""
        self._batches.close()


def ordered_batches(
    look: Callable[[int], Sample],
    blank: Sample,
    num_records: int,
    *,
    batch_size: int,
    workers: int = 0,
    skip_unreadable: bool = False,
    process_index: int = 0,
    process_count: int = 1,
) -> EvalBatches:
    """Each record's sample exactly once, in order, over all hosts.

    Args:
      look: the arrays of a record's sample; may raise UnreadableRecord. It must be picklable where
        there are workers.
      blank: arrays of the same shapes, for padding and for records that cannot be read.
      num_records: how many there are.
      batch_size: samples of a global batch; a multiple of `process_count`.
      workers: decoding processes; 0: threads of this process.
      skip_unreadable: leave out records that cannot be read. Otherwise, once all others have come,
        an error lists them.
      process_index: this host.
      process_count: hosts.
    """
    local_size = _local_size(batch_size, process_count)
    number = -(-num_records // batch_size)
    numbers = grain.MapDataset.range(number * batch_size)  # those past the end are padding
    samples = numbers.map(functools.partial(_evaluation_sample, look, blank, num_records))
    samples = samples[process_index::process_count]
    ahead = _ahead(local_size, sum(value.nbytes for value in blank.values()))
    batches = _read(samples, workers, ahead).batch(local_size, batch_fn=_collate)
    return EvalBatches(batches, number, skip_unreadable)


@contextlib.contextmanager
def to_devices(
    batches: Iterator[Mapping[str, np.ndarray]], sharding: jax.sharding.Sharding
) -> Iterator[Iterator[dict[str, jax.Array]]]:
    """Send batches to the devices ahead of their use; a context manager that gives the iterator.

    Args:
      batches: this host's share of each batch.
      sharding: of the global batch along its first axis.

    Yields:
      An iterator over global arrays. What reading raises, it raises in its turn.
    """
    ahead: queue.Queue[Any] = queue.Queue(_AHEAD)
    stopped = threading.Event()

    def put(item: Any) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                ahead.put(item, timeout=0.1)
                return

    def send() -> None:
        try:
            for batch in batches:
                put(_global_arrays(batch, sharding))
                if stopped.is_set():
                    return
            put(StopIteration())
        except BaseException as error:  # to be raised where the batch is asked for
            put(error)

    def receive() -> Iterator[dict[str, jax.Array]]:
        while not isinstance(item := ahead.get(), BaseException):
            yield item
        if not isinstance(item, StopIteration):
            raise item

    sender = threading.Thread(target=send, name="to_devices", daemon=True)
    sender.start()
    try:
        yield receive()
    finally:
        stopped.set()
        sender.join()


def _global_arrays(
    batch: Mapping[str, np.ndarray], sharding: jax.sharding.Sharding
) -> dict[str, jax.Array]:
    return {
        name: jax.make_array_from_process_local_data(sharding, values)
        for name, values in batch.items()
    }


def _training_sample(
    draw: DrawSample, num_records: int, seed: int, position: int, number: int
) -> Sample:
    """The sample at a position of the endless order of records."""
    rng = np.random.default_rng([seed, position // num_records, number])
    bad: list[tuple[str, str]] = []
    for _ in range(1 + _REPLACEMENTS):
        try:
            return {**draw(rng, number), "bad": bad}
        except UnreadableRecord as error:
            bad.append((error.name, str(error)))
            number = int(rng.integers(num_records))
    raise _too_many(dict(bad))


def _evaluation_sample(
    look: Callable[[int], Sample], blank: Sample, num_records: int, number: int
) -> Sample:
    """A record's sample; blank, with a false mask, where there is none to be read."""
    sample, bad = blank, []
    if number < num_records:
        try:
            sample = look(number)
        except UnreadableRecord as error:
            bad.append((error.name, str(error)))
    return {
        **sample,
        "video_ids": np.int32(number),
        "mask": np.bool_(number < num_records and not bad),
        "bad": bad,
    }


def _read(samples: grain.MapDataset, workers: int, ahead: int) -> grain.IterDataset:
    """Samples in order, read in threads or worker processes.

    Samples, not batches, are what is read in parallel: a batch is ready when its samples are, and
    at most `ahead` samples wait for theirs.
    """
    if not workers:
        threads = min(os.cpu_count() or 1, ahead)
        return samples.to_iter_dataset(grain.ReadOptions(threads, ahead))
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's workers read absl's flags, used or not
    # One thread a worker: more processes, not more threads, is how to use more cores.
    read = samples.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
    per_worker = -(-ahead // workers)
    return read.mp_prefetch(grain.MultiprocessingOptions(workers, per_worker))


def _ahead(local_size: int, sample_bytes: int) -> int:
    return max(min(_WAITING_BATCHES * local_size, _WAITING_BYTES // sample_bytes), 1)


def _collate(samples: Sequence[Sample]) -> dict[str, Any]:
    batch: dict[str, Any] = {
        name: np.stack([sample[name] for sample in samples]) for name in samples[0] if name != "bad"
    }
    return batch | {"bad": [pair for sample in samples for pair in sample["bad"]]}


def _local_size(batch_size: int, process_count: int) -> int:
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"batch_size: found {batch_size}, wanted a positive multiple of the {process_count}"
            " processes; change it"
        )
    return batch_size // process_count


def _too_many(bad: Mapping[str, str]) -> UserError:
    return UserError(
        f"{len(bad)} unreadable videos, more than {MAX_BAD_SHARE:.0%} of the source's; first"
        f" {next(iter(bad.values()))}; find all with `squeezetime check`"
    )


def _unreadable(unreadable: Mapping[str, str]) -> UserError:
    reasons = " | ".join(unreadable.values())
    return UserError(
        f"{len(unreadable)} videos cannot be read: {reasons}; mend or remove them, or ask to skip"
        " unreadable videos"
    )
