"""The checkpoints of a training run: everything that moves, saved while training goes on."""

import errno
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from squeezetime_jax import hosts
from squeezetime_jax.checkpoint.archive import CheckpointError
from squeezetime_jax.checkpoint.store import CHECKPOINTS, Meta, with_arrays
from squeezetime_jax.files import write_whole

Trees = Mapping[str, Any]
_PROGRESS = "progress"
_COMPLETE = "commit_success.txt"  # the last file that Orbax writes into a step
_SCORES = "scores.json"
_OLD_SCORES = Path("metrics", "metrics")  # written by Orbax, up to version 0.1
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Size of a step on disk beyond its arrays: directories, indices, JSON, half-filled blocks.
_SPARE, _OVERHEAD = 1.05, 2_000_000


class RunCheckpoints:
    """Numbered steps in a run's `checkpoints` folder: the newest few, and the best.

    A step holds the items `params`, `batch_stats` and `meta`, from which `squeezetime_jax.load`
    makes the network, items that only training needs, and the scores once it is evaluated. A step
    is written under another name and renamed when it is complete: a run that is killed while saving
    leaves the older steps as they are.

    Args:
      workdir: the run's directory.
      meta: what the network is.
      keep: number of newest steps to keep.
      best_by: name of the score; the step with the highest one is kept too.
    """

    def __init__(self, workdir: Path, meta: Meta, *, keep: int = 2, best_by: str = "top1"):
        self.folder = workdir.absolute() / CHECKPOINTS
        self._meta = meta.to_json()
        self._keep, self._best_by = keep, best_by
        self._added: dict[int, dict[str, float]] = {}
        policy = checkpoint_managers.AnyPreservationPolicy(
            [checkpoint_managers.LatestN(keep), _Best(self)]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy,
            enable_async_checkpointing=True,
            cleanup_tmp_directories=True,
        )
        with _in_one_line(self.folder):
            self._manager = ocp.CheckpointManager(self.folder, options=options)

    def best_step(self) -> int | None:
        """The kept step with the highest score, if any was evaluated."""
        return self.best_of(complete_steps(self.folder))

    def best_of(self, steps: Iterable[int]) -> int | None:
        """The step with the highest score among some, if any of them was evaluated."""
        scored = [
            (scores[self._best_by], step)
            for step in steps
            if self._best_by in (scores := self.scores(step))
        ]
        return max(scored)[1] if scored else None

    def scores(self, step: int) -> dict[str, float]:
        """The scores of a step; empty if it was not evaluated."""
        if step in self._added:
            return self._added[step]
        for name in (_SCORES, _OLD_SCORES):
            with suppress(FileNotFoundError):
                return json.loads((self.folder / str(step) / name).read_text())
        return {}

    def add_scores(self, step: int, scores: Mapping[str, float]) -> None:
        """Write the scores of a step, once its saving has ended; remove steps not to be kept.

        All hosts have to call it with the same scores. Orbax removes a step only if all hosts ask
        for it, so the decision is by what each of them remembers, not by files of host 0.

        Raises:
          CheckpointError: it could not be saved.
        """
        self.wait()
        self._added[step] = dict(scores)
        if hosts.is_main():
            write_whole(self.folder / str(step) / _SCORES, json.dumps(dict(scores)) + "\n")
        steps = sorted(self._manager.all_steps())
        for old in sorted({*steps} - {*steps[-self._keep :], self.best_of(steps)}):
            self._manager.delete(old)

    def save(self, step: int, items: Trees, progress: Mapping[str, Any]) -> None:
        """Begin to save; returns once the arrays are copied and may be overwritten.

        Args:
          step: steps done.
          items: name -> tree of arrays; `params` and `batch_stats` among them.
          progress: JSON; what else a resumed run needs.

        Raises:
          CheckpointError: this save, or the one before, failed; says which step is intact.
        """
        with _in_one_line(self.folder):
            self._manager.wait_until_finished()
            self._check_room(items)
            arrays = {
                name: ocp.args.StandardSave(tree) for name, tree in with_arrays(items).items()
            }
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    meta=ocp.args.JsonSave(self._meta),
                    **{_PROGRESS: ocp.args.JsonSave(dict(progress))},
                    **arrays,
                ),
                force=True,
            )

    def wait(self) -> None:
        """Wait until what was begun is on disk.

        Raises:
          CheckpointError: it could not be written; says which step is intact.
        """
        with _in_one_line(self.folder):
            self._manager.wait_until_finished()

    def restore(self, like: Trees) -> tuple[int, dict[str, Any], dict[str, Any]] | None:
        """Read the newest step.

        Args:
          like: items of `jax.ShapeDtypeStruct` with shardings, as saved.

        Returns:
          The step, its items and its progress; None if there is no step.

        Raises:
          CheckpointError: it does not fit `like`, or is damaged.
        """
        step = self._newest()
        if step is None:
            return None
        arrays = {name: ocp.args.StandardRestore(tree) for name, tree in with_arrays(like).items()}
        items = ocp.args.Composite(**{_PROGRESS: ocp.args.JsonRestore()}, **arrays)
        try:
            found = self._manager.restore(step, args=items)
        except (ValueError, KeyError, TypeError, OSError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise CheckpointError(
                f"{self.folder / str(step)}: damaged, or not of this run: {reason}; remove this"
                " step to continue from the one before"
            ) from error
        trees = {name: found[name] if name in arrays else tree for name, tree in like.items()}
        return step, trees, found[_PROGRESS]

    def _newest(self) -> int | None:
        """The newest complete step, as host 0 finds it.

        Raises:
          CheckpointError: on all hosts, if one of them does not see it.
        """
        (steps, *_) = hosts.gather(complete_steps(self.folder))
        if not steps:
            return None
        step = steps[-1]
        found = hosts.gather(hosts.wait_for(lambda: step in complete_steps(self.folder), 20.0))
        if not all(found):
            raise CheckpointError(
                f"{self.folder / str(step)}: host 0 sees this step, host {found.index(False)} does"
                " not; the folder must be shared by all hosts"
            )
        return step

    def describe_last(self) -> str:
        """The newest complete step, for a message."""
        steps = complete_steps(self.folder)
        return str(self.folder / str(steps[-1])) if steps else "none"

    def close(self) -> None:
        """Wait, and stop the threads."""
        with _in_one_line(self.folder):
            self._manager.close()

    def _check_room(self, items: Trees) -> None:
        """Refuse a checkpoint that does not fit on the disk before half of it is written."""
        if jax.process_count() > 1:
            return  # each host writes its own part
        needed = _OVERHEAD + _SPARE * sum(leaf.nbytes for leaf in jax.tree.leaves(dict(items)))
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            message = f"{needed / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free"
            raise OSError(errno.ENOSPC, message)


def complete_steps(folder: Path) -> list[int]:
    """The steps in a run's `checkpoints` folder that are complete, oldest first."""
    if not folder.is_dir():
        return []
    steps = [path for path in folder.iterdir() if path.name.isdecimal()]
    return sorted(int(path.name) for path in steps if (path / _COMPLETE).exists())


class _Best:
    """Orbax's rule for the step to keep beside the newest: the best so far."""

    def __init__(self, checkpoints: RunCheckpoints):
        self._checkpoints = checkpoints

    def should_preserve(self, steps: Any, *, context: Any) -> list[bool]:
        best = self._checkpoints.best_of(info.step for info in steps)
        return [info.step == best for info in steps]


@contextmanager
def _in_one_line(folder: Path) -> Iterator[None]:
    """Turn what Orbax raises when a write fails into one line for the user."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # Orbax wraps the system's error in various types
        reason = _no_room(error)
        if reason is None and not isinstance(error, OSError):
            raise
        steps = complete_steps(folder)
        intact = f"step {steps[-1]} is intact" if steps else "no step is saved yet"
        what = f"the disk is full ({reason})" if reason else f"cannot be written ({error})"
        remedy = "free some space" if reason else "make the folder writable"
        raise CheckpointError(
            f"{folder}: {what}; {intact}; {remedy} and start the same command again"
        ) from error


def _no_room(error: BaseException | None) -> str | None:
    """The system's message, if an error in the chain is a full disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return error.strerror
        text = str(error)
        for word in ("No space left on device", "Disk quota exceeded", "File too large"):
            if word in text:
                return word
        error = error.__cause__ or error.__context__
    return None
