"""Records -> batches of arrays -> global arrays on the devices, for any task.

Grain reads; this module says which records, and in which order.

Random numbers come from a generator derived from (seed, epoch, record) and the order of the records
from (seed, epoch). A sample therefore does not depend on threads, worker processes or hosts: row i
of batch s is the same record on any number of hosts. The only position worth saving is the number
of batches taken; `endless_batches(..., start_step=n)` continues with batch n, bit for bit.
"""

import contextlib
import functools
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import jax
import numpy as np
from absl import flags
from jaxtyping import Int

from squeezetime_jax.errors import UserError, count
from squeezetime_jax.machine import available_cpus

_log = logging.getLogger(__name__)

Batch = dict[str, np.ndarray]
Sample = dict[str, Any]
DrawSample = Callable[[np.random.Generator, int], Sample]
ReadSample = Callable[[int], Sample]
Rows = Int[np.ndarray, " n"]

# Training replaces so many unreadable videos, or this share of all, whichever is more.
MAX_BAD_VIDEOS, MAX_BAD_SHARE = 3, 0.01
_MAX_REPLACEMENTS = 8  # tried for one sample
_BATCHES_AHEAD = 2  # on the devices, before they are needed
# Decoded samples that wait for their batch: those of two batches, or 1 GiB if that is less.
_WAITING_BATCHES, _WAITING_BYTES = 2, 1 << 30
_VIDEOS_SHOWN = 3  # of the unreadable ones, in an error


class UnreadableRecord(UserError):
    """A record that cannot be read.

    Attributes:
      name: name of the record; one that fails repeatedly is counted once.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(reason)
        self.name = name


def local_rows(sharding: jax.sharding.Sharding, batch_size: int) -> Rows:
    """Rows of a global batch that the devices of this host hold, in ascending order.

    These are the rows, in the order, that `jax.make_array_from_process_local_data` expects.

    Args:
      sharding: of the batch along its first axis.
      batch_size: rows of the global batch.

    Raises:
      UserError: the devices cannot share the batch evenly.
    """
    try:
        indices = sharding.addressable_devices_indices_map((batch_size,))
    except ValueError:
        raise UserError(
            f"batch_size: must be a multiple of {sharding.num_devices}, the number of devices; got"
            f" {batch_size}"
        ) from None
    rows = np.arange(batch_size)
    return np.unique(np.concatenate([rows[index] for index in indices.values() if index]))


def max_bad_videos(num_videos: int) -> int:
    """How many unreadable videos training replaces by others."""
    return int(max(MAX_BAD_VIDEOS, MAX_BAD_SHARE * num_videos))


def pad_rows(rows: np.ndarray, length: int) -> np.ndarray:
    """An array with zeros behind its rows, so that samples of different lengths make a batch."""
    return np.pad(rows, [(0, length - len(rows))] + [(0, 0)] * (rows.ndim - 1))


class TrainBatches:
    """Endless training batches of this host, in order; an iterator to close after use.

    Each batch holds the samples' arrays, stacked: (n, ...), for the n rows of this host.

    Attributes:
      bad_videos: name -> reason, of the unreadable videos replaced so far.
    """

    def __init__(self, batches: grain.IterDataset, num_videos: int) -> None:
        self.bad_videos: dict[str, str] = {}
        self._num_videos = num_videos
        self._limit = max_bad_videos(num_videos)
        self._batches = iter(batches)

    def __iter__(self) -> "TrainBatches":
        return self

    def __next__(self) -> Batch:
        batch = next(self._batches)
        for name, reason in batch.pop("bad"):
            if name not in self.bad_videos:
                self.bad_videos[name] = reason
                count = len(self.bad_videos)
                _log.warning("unreadable video %d, replaced by another: %s", count, reason)
        if len(self.bad_videos) > self._limit:
            raise UserError(
                f"{len(self.bad_videos)} of {self._num_videos} videos cannot be read, more than the"
                f" {self._limit} that training replaces; `squeezetime check` lists all of them:"
                f" {_first_few(self.bad_videos)}"
            )
        return batch

    def close(self) -> None:
        """Stop the reading threads and processes."""
        self._batches.close()


def endless_batches(
    draw: DrawSample,
    num_records: int,
    *,
    batch_size: int,
    seed: int,
    sample_bytes: int,
    rows: Rows | None = None,
    workers: int = 0,
    start_step: int = 0,
) -> TrainBatches:
    """Shuffled batches of samples without end; every epoch shows each record once.

    An unreadable record is replaced by another, drawn from (seed, epoch, record). More of them than
    the larger of `MAX_BAD_VIDEOS` and the share `MAX_BAD_SHARE` is an error.

    Args:
      draw: the arrays of a record's sample, drawn with the generator; may raise UnreadableRecord.
        Must be picklable if there are workers.
      num_records: records of an epoch.
      batch_size: rows of a global batch.
      seed: of the order and of the samples.
      sample_bytes: approximate size of a sample, which limits how many are read ahead.
      rows: the rows of each batch that this host reads, by `local_rows`; default: all.
      workers: decoding processes; 0: threads of this process.
      start_step: number of the first batch.

    Raises:
      UserError: there are fewer records than rows in a batch.
    """
    if not 1 <= batch_size <= num_records:
        raise UserError(
            f"batch_size: must be 1 to {num_records}, the number of training videos; got"
            f" {batch_size}"
        )
    rows = np.arange(batch_size) if rows is None else rows
    order = grain.MapDataset.range(num_records).shuffle(seed % 2**32).repeat()
    sample = functools.partial(_training_sample, draw, order, num_records, seed)
    positions = grain.MapDataset.range(start_step * len(rows), sys.maxsize)
    samples = positions.map(functools.partial(_position, rows, batch_size)).map(sample)
    batches = _read(samples, workers, _samples_ahead(len(rows), sample_bytes))
    return TrainBatches(batches.batch(len(rows), batch_fn=_collate), num_records)


class EvalBatches:
    """The batches of one evaluation on this host; an iterator to close after use.

    Each batch holds the samples' arrays, stacked, (n, ...), with `video_ids`, int32 (n,), the
    records' numbers, and `mask`, bool (n,): false in rows of padding and of unreadable records. All
    hosts get the same number of batches.

    Attributes:
      unreadable: name -> reason, of the videos that this host could not read so far. Only after the
        last batch is it complete; the scorer then gathers those of all hosts.
    """

    def __init__(self, batches: grain.IterDataset, number: int) -> None:
        self.unreadable: dict[str, str] = {}
        self._batches = iter(batches)
        self._number = number

    def __iter__(self) -> "EvalBatches":
        return self

    def __len__(self) -> int:
        return self._number

    def __next__(self) -> Batch:
        batch = next(self._batches)
        self.unreadable.update(batch.pop("bad"))
        return batch

    def close(self) -> None:
        """Stop the reading threads and processes."""
        self._batches.close()


def ordered_batches(
    read: ReadSample,
    blank: Sample,
    num_records: int,
    *,
    batch_size: int,
    rows: Rows | None = None,
    workers: int = 0,
) -> EvalBatches:
    """Each record's sample exactly once, in order, over all hosts.

    Args:
      read: the arrays of a record's sample; may raise UnreadableRecord. Must be picklable if there
        are workers.
      blank: arrays of the same shapes, for padding and for unreadable records.
      num_records: how many there are.
      batch_size: rows of a global batch.
      rows: the rows of each batch that this host reads, by `local_rows`; default: all.
      workers: decoding processes; 0: threads of this process.
    """
    rows = np.arange(batch_size) if rows is None else rows
    number = -(-num_records // batch_size)
    numbers = grain.MapDataset.range(number * len(rows)).map(
        functools.partial(_position, rows, batch_size)
    )
    samples = numbers.map(functools.partial(_evaluation_sample, read, blank, num_records))
    ahead = _samples_ahead(len(rows), sum(value.nbytes for value in blank.values()))
    batches = _read(samples, workers, ahead).batch(len(rows), batch_fn=_collate)
    return EvalBatches(batches, number)


def unreadable_error(unreadable: Mapping[str, str]) -> UserError:
    """The error of an evaluation that met unreadable videos."""
    return UserError(
        f"{count(len(unreadable), 'video')} cannot be read; repair or remove such videos, or skip"
        f" them (--skip-unreadable): {_first_few(unreadable)}"
    )


@contextlib.contextmanager
def to_devices(
    batches: Iterator[Mapping[str, np.ndarray]], sharding: jax.sharding.Sharding
) -> Iterator[Iterator[dict[str, jax.Array]]]:
    """Send batches to the devices ahead of their use, in a thread, until the context ends.

    Args:
      batches: this host's rows of each batch, as `local_rows` says.
      sharding: of the global batch along its first axis.

    Yields:
      An iterator over global arrays. An error while reading is raised in place of its batch.
    """
    sent = _Sent(batches, sharding)
    ahead = grain.experimental.ThreadPrefetchDatasetIterator(sent, _BATCHES_AHEAD)
    with contextlib.closing(ahead):
        ahead.start_prefetch()
        yield ahead


class _Sent(grain.DatasetIterator):
    """Batches as global arrays. Grain's prefetch asks for a state, of which there is none."""

    def __init__(
        self, batches: Iterator[Mapping[str, np.ndarray]], sharding: jax.sharding.Sharding
    ) -> None:
        super().__init__()
        self._batches, self._sharding = batches, sharding

    def __next__(self) -> dict[str, jax.Array]:
        return {
            name: jax.make_array_from_process_local_data(self._sharding, values)
            for name, values in next(self._batches).items()
        }

    def get_state(self) -> dict[str, Any]:
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        raise NotImplementedError


def _position(rows: Rows, batch_size: int, index: int) -> int:
    """Position in the order of all records of this host's `index`-th sample."""
    step, place = divmod(index, len(rows))
    return step * batch_size + int(rows[place])


def _training_sample(
    draw: DrawSample, order: grain.MapDataset, num_records: int, seed: int, position: int
) -> Sample:
    """The sample at a position of the endless order of records."""
    number = order[position]
    rng = np.random.default_rng([seed, position // num_records, number])
    bad: list[tuple[str, str]] = []
    for _ in range(1 + _MAX_REPLACEMENTS):
        try:
            return {**draw(rng, number), "bad": bad}
        except UnreadableRecord as error:
            bad.append((error.name, str(error)))
            number = int(rng.integers(num_records))
    raise UserError(
        f"{len(bad)} videos in a row cannot be read; check the path and the format of the videos:"
        f" {_first_few(dict(bad))}"
    )


def _evaluation_sample(read: ReadSample, blank: Sample, num_records: int, number: int) -> Sample:
    """A record's sample; blank, with a false mask, for padding and unreadable records."""
    sample, bad = blank, []
    if number < num_records:
        try:
            sample = read(number)
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

    Samples, not batches, are read in parallel: a batch is ready as soon as its samples are, and at
    most `ahead` samples wait.
    """
    if not workers:
        threads = min(available_cpus(), ahead)
        return samples.to_iter_dataset(grain.ReadOptions(threads, ahead))
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's workers read absl's flags, whether used or not
    # One thread a worker: to use more cores, more processes are better than more threads.
    read = samples.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
    per_worker = -(-ahead // workers)
    return read.mp_prefetch(grain.MultiprocessingOptions(workers, per_worker))


def _samples_ahead(batch_rows: int, sample_bytes: int) -> int:
    return max(min(_WAITING_BATCHES * batch_rows, _WAITING_BYTES // sample_bytes), 1)


def _collate(samples: Sequence[Sample]) -> dict[str, Any]:
    batch: dict[str, Any] = {
        name: np.stack([sample[name] for sample in samples]) for name in samples[0] if name != "bad"
    }
    return batch | {"bad": [pair for sample in samples for pair in sample["bad"]]}


def _first_few(unreadable: Mapping[str, str]) -> str:
    """The reasons of the first few videos, in one line."""
    reasons = list(unreadable.values())
    more = len(reasons) - _VIDEOS_SHOWN
    shown = " | ".join(reasons[:_VIDEOS_SHOWN])
    return f"{shown} | and {more} more" if more > 0 else shown
