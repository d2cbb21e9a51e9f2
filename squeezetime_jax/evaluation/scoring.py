"""The one way in which a test set is scored, for any task, on any number of devices and hosts.

A task says what its records are, what the network makes of a batch of them, and what the answers
are worth (`TestSet`, `Scores`). Reading, batches, devices, hosts, unreadable records, printing and
writing are here.
"""

import contextlib
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from squeezetime_jax import hosts
from squeezetime_jax.data.batches import (
    Sample,
    UnreadableRecord,
    local_rows,
    ordered_batches,
    to_devices,
    unreadable_error,
)
from squeezetime_jax.errors import UserError
from squeezetime_jax.files import write_whole

_SHOWN = 3  # of the records that could not be read
_UNREADABLE = "unreadable.txt"  # in the working directory, if there are more

Batch = dict[str, jax.Array]
Rows = dict[str, np.ndarray]
Predict = Callable[[Any], dict[str, Any]]
Progress = Callable[[int], None]


class Scores(ABC):
    """What the answers to a test set are worth."""

    @abstractmethod
    def numbers(self) -> dict[str, float]:
        """The metrics of an evaluation during training; the task's `metric` among them."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Everything that `squeezetime eval --json` prints of them."""

    @abstractmethod
    def table(self) -> str:
        """The same for people, as lines."""

    @abstractmethod
    def figure(self) -> Any:
        """A picture, for `squeezetime eval --save`, as a Matplotlib figure."""

    def write_page(self, folder: Path) -> Path:
        """Write a page of what went right and wrong, for `squeezetime eval --save FOLDER`.

        Returns:
          The page. By default it has the table and the figure.

        Raises:
          UserError: a file cannot be written.
        """
        from squeezetime_jax.evaluation.pictures import Section, save_figure, write_page

        picture = save_figure(self.figure(), folder / "figure.png")
        lines = self.table().splitlines()
        sections = [Section("Figure", picture=picture), Section("Scores", commands=lines)]
        return write_page(folder / "report.html", "Evaluation", lines[-1], sections)

    @abstractmethod
    def write(self, path: Path) -> None:
        """Write the answer to every record, for `squeezetime eval --scores`.

        Raises:
          UserError: the file cannot be written.
        """


class TestSet(ABC):
    """The records that a network is tested on.

    Attributes:
      batch_size: records scored at once, on all devices together; rounded up to a multiple of their
        number. None: one record at a time, on the first device of each host, which share the
        records; then samples need not be arrays.
    """

    __test__ = False  # not a pytest class, despite its name

    batch_size: int | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Number of records."""

    def contents(self) -> Any:
        """What the records are, a tree of texts, numbers and arrays that all hosts must have."""
        return len(self)

    @abstractmethod
    def read(self, record: int) -> Sample:
        """The sample of a record: arrays, of the same shapes for all records.

        Raises:
          UnreadableRecord: it cannot be read.
        """

    def blank(self) -> Sample:
        """A sample of the same shapes, for rows of a batch without a record."""
        raise NotImplementedError

    @abstractmethod
    def predictor(self, model: Any, mesh: Mesh) -> Predict:
        """What the network makes of a batch, as a function of the batch.

        Whatever is done once for all batches (placing or folding weights) is done here.

        Args:
          model: the network, in evaluation mode; the same on all hosts.
          mesh: the devices.

        Returns:
          A function of a batch, the samples' arrays with the records along the first axis, cut over
          the devices. It gives arrays with the same first axis, for `score`; it may hand on arrays
          of the batch. With `batch_size` None it takes a sample and gives anything that pickles.
        """

    @abstractmethod
    def score(self, rows: Rows) -> Scores:
        """What the answers are worth.

        Args:
          rows: the predictor's arrays for all records that could be read, in ascending order, and
            their numbers as `record`, int (n,). With `batch_size` None arrays of objects. The same
            on all hosts.
        """


@dataclass(frozen=True)
class Scored:
    """A test set's scores.

    Attributes:
      scores: of the records that could be read.
      num_records: how many these are.
      unreadable: name -> reason, of those that could not, on all hosts.
    """

    scores: Scores
    num_records: int
    unreadable: Mapping[str, str]


class UnreadableRecords(UserError):
    """Records that cannot be read, found while all others were scored.

    Attributes:
      scored: the others; None if there are none.
    """

    def __init__(self, unreadable: Mapping[str, str], scored: Scored | None):
        super().__init__(str(unreadable_error(unreadable)))
        self.scored = scored


def check_first(test: TestSet, *, skip_unreadable: bool) -> None:
    """Read the first record, so that training does not begin with a wrong path to the test data.

    Raises:
      UserError: it cannot be read, and such records are not to be skipped.
    """
    if skip_unreadable or not len(test):
        return
    try:
        sample = test.read(0)
        for values in sample.values():
            if isinstance(values, Iterator):  # it reads as it is used
                next(values, None)
    except UnreadableRecord as error:
        raise UserError(
            f"test data: the first record cannot be read: {error}; correct the path, or set"
            " evaluation.skip_unreadable"
        ) from error


def score(
    test: TestSet,
    model: Any,
    mesh: Mesh,
    *,
    workers: int = 0,
    skip_unreadable: bool = False,
    progress: Progress = lambda count: None,
) -> Scored:
    """Score all records of a test set, each once.

    Args:
      test: the records.
      model: the network, in evaluation mode.
      mesh: the devices, a row; the same on all hosts.
      workers: decoding processes on each host; 0: threads.
      skip_unreadable: leave out records that cannot be read.
      progress: called with the number of further records that are done.

    Returns:
      The same on all hosts.

    Raises:
      UnreadableRecords: the message has the first few; what was scored comes with it.
    """
    if test.batch_size is None:
        rows, unreadable = _one_by_one(test, model, mesh, progress)
    else:
        rows, unreadable = _in_batches(test, model, mesh, workers, progress)
    number = len(rows["record"])
    scored = Scored(test.score(rows), number, unreadable) if number or not unreadable else None
    if scored is None or (unreadable and not skip_unreadable):
        raise UnreadableRecords(unreadable, scored)
    return scored


def _in_batches(
    test: TestSet, model: Any, mesh: Mesh, workers: int, progress: Progress
) -> tuple[Rows, dict[str, str]]:
    assert test.batch_size is not None
    batch_size = -(-test.batch_size // mesh.size) * mesh.size
    split = NamedSharding(mesh, PartitionSpec(*mesh.axis_names))
    predict = test.predictor(model, mesh)
    # The answers of all hosts' devices on every host; rows stay beside their record and mask.
    gather = jax.jit(lambda rows: rows, out_shardings=NamedSharding(mesh, PartitionSpec()))
    batches = ordered_batches(
        test.read,
        test.blank(),
        len(test),
        batch_size=batch_size,
        rows=local_rows(split, batch_size),
        workers=workers,
    )
    parts: list[Rows] = []
    with contextlib.closing(batches), to_devices(batches, split) as ahead:
        pending: Batch | None = None
        for batch in ahead:
            record, mask = batch.pop("video_ids"), batch.pop("mask")
            found = predict(batch)
            if pending is None:
                hosts.meet("scoring")  # the first batch was compiled for
            answers = gather({**found, "record": record, "mask": mask})
            parts += _fetch(pending, progress)  # of the batch before, while this one is computed
            pending = answers
        parts += _fetch(pending, progress)
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return rows, _merged(hosts.gather(batches.unreadable))


def _fetch(answers: Batch | None, progress: Progress) -> list[Rows]:
    if answers is None:
        return []
    rows = {name: np.asarray(values) for name, values in answers.items()}
    mask = rows.pop("mask")
    progress(int(mask.sum()))
    return [{name: values[mask] for name, values in rows.items()}]


def _one_by_one(
    test: TestSet, model: Any, mesh: Mesh, progress: Progress
) -> tuple[Rows, dict[str, str]]:
    predict = test.predictor(model, mesh)
    answers: list[tuple[int, dict[str, Any]]] = []
    bad: dict[str, str] = {}
    for record in range(jax.process_index(), len(test), jax.process_count()):
        try:
            answers.append((record, predict(test.read(record))))
        except UnreadableRecord as error:
            bad[error.name] = str(error)
        progress(1)
    parts = hosts.gather(answers)
    found = sorted((pair for part in parts for pair in part), key=lambda pair: pair[0])
    rows: Rows = {"record": np.array([record for record, _ in found], np.int64)}
    for name in found[0][1] if found else ():
        rows[name] = np.empty(len(found), object)
        rows[name][:] = [answer[name] for _, answer in found]
    return rows, _merged(hosts.gather(bad))


def _name_unreadable(unreadable: Mapping[str, str]) -> None:
    """Print the first few records that could not be read; all of them go into a file, if more."""
    reasons = list(unreadable.values())
    for reason in reasons[:_SHOWN]:
        print(f"skipped: {reason}", file=sys.stderr)
    if len(reasons) > _SHOWN:
        write_whole(Path(_UNREADABLE), "".join(f"{reason}\n" for reason in reasons))
        print(f"skipped: all {len(reasons)} are in {_UNREADABLE}", file=sys.stderr)


def _merged(unreadable: list[dict[str, str]]) -> dict[str, str]:
    """The unreadable records of all hosts, by name."""
    return dict(sorted({k: v for part in unreadable for k, v in part.items()}.items()))


def report(
    scored: Scored,
    summary: Mapping[str, Any],
    *,
    comparison: str = "",
    as_json: bool = False,
    scores: Path | None = None,
    save: Path | None = None,
) -> None:
    """Print the scores of a test set, and write what is asked for.

    Args:
      scored: the scores.
      summary: the JSON object; empty: the scores are of a part of the records, so that they are
        written to the files, but not printed.
      comparison: a last line of the table.
      as_json: one JSON object instead of the table.
      scores: file for the answer to every record.
      save: file for the picture; a folder for the page.

    Raises:
      UserError: a file cannot be written.
    """
    if as_json and summary:
        print(json.dumps(dict(summary)), flush=True)
    elif summary:
        print("\n".join(line for line in (scored.scores.table(), comparison) if line), flush=True)
    _name_unreadable(scored.unreadable)
    if scores is not None:
        scored.scores.write(scores)
        print(f"wrote {scores}", file=sys.stderr)
    if save is not None:
        print(f"wrote {_draw(scored.scores, save)}", file=sys.stderr)


def _draw(scores: Scores, path: Path) -> Path:
    from squeezetime_jax.evaluation.pictures import PICTURE_SUFFIXES, save_figure

    if path.suffix.lower() in PICTURE_SUFFIXES:
        return save_figure(scores.figure(), path)
    if path.suffix and not path.is_dir():
        kinds = ", ".join(sorted(PICTURE_SUFFIXES))
        raise UserError(
            f"--save {path}: expected a folder, for the page, or a picture that ends in {kinds}"
        )
    return scores.write_page(path)
