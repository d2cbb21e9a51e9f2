"""The checkpoints of a training run: everything that moves, saved while training goes on."""

import errno
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from squeezetime_jax.checkpoint.archive import CheckpointError
from squeezetime_jax.checkpoint.store import CHECKPOINTS, Meta

Trees = Mapping[str, Any]
_PROGRESS = "progress"
_WHOLE = "commit_success.txt"  # the last thing that Orbax writes into a step
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What a step takes on disk over its arrays: directories, indices, JSON, half-filled blocks.
_SPARE, _OVERHEAD = 1.05, 2_000_000


class RunCheckpoints:
    """Numbered steps in a run's `checkpoints` folder: the newest few, and the best.

    A step holds the items `params`, `batch_stats` and `meta`, from which `squeezetime_jax.load`
    makes the network, and beside them what only training needs. A step is written under another
    name and renamed when it is whole: a run that is killed while saving leaves the older steps as
    they are.

    Args:
      workdir: the run's working directory.
      meta: what the network is.
      keep: how many of the newest steps to keep.
      best_by: the score that the best step, also kept, has the highest of.
    """

    def __init__(self, workdir: Path, meta: Meta, *, keep: int = 2, best_by: str = "top1"):
        self.folder = workdir.absolute() / CHECKPOINTS
        self._meta = meta.to_json()
        self._best_by = best_by
        policy = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(keep),
                checkpoint_managers.BestN(get_metric_fn=self._score, n=1),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy,
            best_fn=self._score,  # has the scores written beside the step
            enable_async_checkpointing=True,
            cleanup_tmp_directories=True,
        )
        with _told_in_one_line(self.folder, self.steps):
            self._manager = ocp.CheckpointManager(self.folder, options=options)

    def _score(self, metrics: Mapping[str, float] | None) -> float:
        return (metrics or {}).get(self._best_by, float("-inf"))

    def steps(self) -> list[int]:
        """The steps that are whole on disk, oldest first."""
        if not self.folder.is_dir():
            return []
        steps = [path for path in self.folder.iterdir() if path.name.isdecimal()]
        return sorted(int(path.name) for path in steps if (path / _WHOLE).exists())

    def best_step(self) -> int | None:
        """The kept step with the highest score, if any was scored."""
        scored = [(self._score(self._metrics(step)), step) for step in self.steps()]
        best = max(scored, default=(float("-inf"), 0))
        return best[1] if best[0] > float("-inf") else None

    def _metrics(self, step: int) -> dict[str, float] | None:
        try:
            return json.loads((self.folder / str(step) / "metrics" / "metrics").read_text())
        except FileNotFoundError:
            return None

    def save(
        self,
        step: int,
        items: Trees,
        progress: Mapping[str, Any],
        scores: Mapping[str, float] | None = None,
    ) -> None:
        """Begin to save; returns once the arrays are copied and may be overwritten.

        Args:
          step: steps done.
          items: name -> tree of arrays; `params` and `batch_stats` among them.
          progress: JSON; what else the run must remember.
          scores: of an evaluation of these weights.

        Raises:
          CheckpointError: this save, or the one before, failed; says which step is intact.
        """
        with _told_in_one_line(self.folder, self.steps):
            self._manager.wait_until_finished()
            self._check_room(items)
            arrays = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    meta=ocp.args.JsonSave(self._meta),
                    **{_PROGRESS: ocp.args.JsonSave(dict(progress))},
                    **arrays,
                ),
                metrics=dict(scores or {}),
                force=True,
            )

    def wait(self) -> None:
        """Until what was begun is on disk.

        Raises:
          CheckpointError: it could not be written; says which step is intact.
        """
        with _told_in_one_line(self.folder, self.steps):
            self._manager.wait_until_finished()

    def restore(self, like: Trees) -> tuple[int, dict[str, Any], dict[str, Any]] | None:
        """Read the newest step.

        Args:
          like: items of `jax.ShapeDtypeStruct` with shardings, as saved.

        Returns:
          The step, its items and its progress; None where there is no step yet.

        Raises:
          CheckpointError: it does not fit `like`, or is damaged.
        """
        steps = self.steps()
        if not steps:
            return None
        step = steps[-1]
        arrays = {name: ocp.args.StandardRestore(tree) for name, tree in like.items()}
        wanted = ocp.args.Composite(**{_PROGRESS: ocp.args.JsonRestore()}, **arrays)
        try:
            found = self._manager.restore(step, args=wanted)
        except (ValueError, KeyError, TypeError, OSError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise CheckpointError(
                f"{self.folder / str(step)}: damaged, or not of this run: {reason}; remove this"
                " step to go on from the one before"
            ) from error
        return step, {name: found[name] for name in like}, found[_PROGRESS]

    def describe_last(self) -> str:
        """The newest whole step, for a message."""
        steps = self.steps()
        return str(self.folder / str(steps[-1])) if steps else "none"

    def close(self) -> None:
        """Wait, and let go of the threads."""
        with _told_in_one_line(self.folder, self.steps):
            self._manager.close()

    def _check_room(self, items: Trees) -> None:
        """Refuse before writing what will not fit: half a checkpoint helps nobody."""
        if jax.process_count() > 1:
            return  # each host writes its own part; the write itself will tell
        needed = _OVERHEAD + _SPARE * sum(leaf.nbytes for leaf in jax.tree.leaves(dict(items)))
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            message = f"{needed / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free"
            raise OSError(errno.ENOSPC, message)


@contextmanager
def _told_in_one_line(folder: Path, steps: Any) -> Iterator[None]:
    """Turn what Orbax raises when a write fails into the one line that a user needs."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # Orbax wraps the system's error in types of its own
        reason = _no_room(error)
        if reason is None and not isinstance(error, OSError):
            raise
        whole = steps()
        intact = f"step {whole[-1]} is intact" if whole else "no step is saved yet"
        what = f"the disk is full ({reason})" if reason else f"cannot be written ({error})"
        remedy = "free some space" if reason else "make the folder writable"
        raise CheckpointError(
            f"{folder}: {what}; {intact}; {remedy} and start the same command again"
        ) from error


def _no_room(error: BaseException | None) -> str | None:
    """What the system said, if some error in the chain is a disk without room."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return error.strerror
        text = str(error)
        for word in ("No space left on device", "Disk quota exceeded", "File too large"):
            if word in text:
                return word
        error = error.__cause__ or error.__context__
    return None
