"""Runs in this process: what an error loses, what a resumed run may change, what is refused."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny

from squeezetime_jax.data.batches import UnreadableRecord
from squeezetime_jax.errors import UserError
from squeezetime_jax.evaluation.scoring import TestSet
from squeezetime_jax.training import config, loop, runner
from squeezetime_jax.training.report import Reporter, read_metrics

CHANGES = {"evaluation__every_epochs": 1.0, "run__save_epochs": 1.0, "run__log_steps": 5}


class Broken(tiny.Weights):
    """A test set that cannot be scored."""

    def predictor(self, model: Any, mesh: Any) -> Any:
        raise UserError("1 video cannot be read")


class Run(tiny.Tiny):
    """Ten steps, with a test set to choose, and something to do before a record is read."""

    test: TestSet = tiny.Weights()
    before_record: Any = staticmethod(lambda count: None)

    def test_set(self, checkpoint: str | None = None) -> TestSet:
        return self.test

    def training_set(self) -> Any:
        task, count = self, [0]

        class Counted(tiny.Blocks):
            def read(self, record: int, rng: Any) -> Any:
                count[0] += 1
                task.before_record(count[0])
                return super().read(record, rng)

        return Counted(self.experiment)


def _run(folder: Path, kind: type[Run] = Run, **changes: Any) -> runner.Result:
    return runner.run(kind(tiny.experiment(**CHANGES, **changes), folder), Reporter())


def _steps(folder: Path) -> set[int]:
    return {int(path.name) for path in (folder / "checkpoints").iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    result = _run(folder)
    assert result.best is not None
    return folder


def test_a_failed_evaluation_loses_no_step_and_is_repeated(tmp_path: Path, whole: Path) -> None:
    class Fails(Run):
        test = Broken()

    with pytest.raises(UserError, match="1 video cannot be read"):
        _run(tmp_path, Fails)
    assert _steps(tmp_path) == {5}
    with pytest.raises(UserError, match="1 video cannot be read"):
        _run(tmp_path, Fails)  # still there, and still due
    _run(tmp_path)
    assert read_metrics(tmp_path) == read_metrics(whole)


def test_test_data_that_cannot_be_read_are_refused_before_the_first_step(tmp_path: Path) -> None:
    class Unreadable(tiny.Weights):
        def read(self, record: int) -> Any:
            raise UnreadableRecord("a.mp4", "a.mp4: no such file")

    class Fails(Run):
        test = Unreadable()

    with pytest.raises(UserError, match=r"^test data: the first record .*: a.mp4: no such file; c"):
        _run(tmp_path / "run", Fails)
    assert not (tmp_path / "run").exists()


def test_a_failed_evaluation_can_be_switched_off(tmp_path: Path) -> None:
    class Fails(Run):
        test = Broken()

    with pytest.raises(UserError, match="cannot be read"):
        _run(tmp_path, Fails)
    changes = {**CHANGES, "evaluation__every_epochs": 0.0}
    runner.run(Fails(tiny.experiment(**changes), tmp_path), Reporter())
    assert read_metrics(tmp_path)[-1]["step"] == 10


def test_a_stop_request_saves_and_leaves_the_evaluation_to_the_next_run(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At step 5, where an evaluation is due.
    monkeypatch.setattr(loop.StopRequest, "after", lambda self, step: step == 5)
    with pytest.raises(loop.Preempted, match="step 5 of 10 is saved"):
        _run(tmp_path)
    assert [line["kind"] for line in read_metrics(tmp_path)] == ["train"]
    monkeypatch.undo()
    _run(tmp_path)
    assert read_metrics(tmp_path) == read_metrics(whole)


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Ctrl-C interrupts, as in a terminal; a job in the background of a shell ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")]
)
def test_signals_are_stop_requests(
    number: int, name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], interrupts: None
) -> None:
    class Stops(Run):
        @staticmethod
        def before_record(count: int) -> None:
            if count == 290:  # of 320; earlier ones may be read before the first step
                os.kill(os.getpid(), number)

    with pytest.raises(loop.Preempted, match=f"stopped by {name}; step . of 10 is saved") as caught:
        _run(tmp_path, Stops)
    assert caught.value.signal == number
    assert max(_steps(tmp_path)) < 10
    assert ("Ctrl-C again leaves at once" in capfd.readouterr().err) == (number == signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_interrupt_leaves_at_once(interrupts: None) -> None:
    with loop.StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.after(1)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_stop_request_ends_an_evaluation_whose_step_is_saved(tmp_path: Path, whole: Path) -> None:
    class Slow(tiny.Weights):
        def predictor(self, model: Any, mesh: Any) -> Any:
            signal.raise_signal(signal.SIGTERM)
            raise AssertionError("the signal was ignored")

    class Stops(Run):
        test = Slow()

    with pytest.raises(loop.Preempted, match="step 5 of 10 is saved"):
        _run(tmp_path, Stops)
    assert _steps(tmp_path) == {5}
    _run(tmp_path)
    assert read_metrics(tmp_path) == read_metrics(whole)


@pytest.mark.parametrize("workdir", ["gs://bucket/run", Path("s3://bucket/run")])
def test_a_bucket_is_refused(workdir: str | Path) -> None:
    with pytest.raises(UserError, match=r"^--workdir (gs|s3)://...: must be a folder, not a buck"):
        runner.train(tiny.experiment(), workdir)
    assert not Path(workdir).exists()


def test_the_same_files_elsewhere_are_the_same_run(whole: Path) -> None:
    moved = {
        "data__root": "/other/disk",
        "data__workers": 3,
        "evaluation__batch_size": 7,
        "run__keep": 5,
    }
    experiment = tiny.experiment(**CHANGES, **moved)
    runner.claim(whole, experiment)
    assert json.loads((whole / "config.json").read_text())["data"]["root"] == "/other/disk"


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"optimizer__momentum": 0.8}, "optimizer.momentum: 0.9 -> 0.8"),
        ({"data__train": "/somewhere/val.txt"}, "data.train: '' -> '/somewhere/val.txt'"),
        ({"evaluation__num_clips": 2}, "evaluation.num_clips: 1 -> 2"),
        ({"seed": 3}, "seed: 0 -> 3"),
        ({"epochs": 1}, "epochs: 2 -> 1"),
        ({"init": "other.pth"}, "init: '' -> 'other.pth'"),
    ],
)
def test_another_experiment_is_refused(
    changes: dict[str, Any], difference: str, whole: Path
) -> None:
    before = (whole / "config.json").read_text()
    with pytest.raises(UserError) as caught:
        runner.claim(whole, tiny.experiment(**CHANGES, **changes))
    assert f"holds a run with another config: {difference}; choose" in str(caught.value)
    assert (whole / "config.json").read_text() == before


def test_a_moved_list_is_the_same_list(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    (tmp_path / "checkpoints" / "1" / "commit_success.txt").touch()
    runner.claim(tmp_path, tiny.experiment(data__train="/a/train.txt"))
    runner.claim(tmp_path, tiny.experiment(data__train="/b/c/train.txt"))
    with pytest.raises(UserError, match=r"data.train: '/b/c/train.txt' -> '/b/c/val.txt'"):
        runner.claim(tmp_path, tiny.experiment(data__train="/b/c/val.txt"))


def test_a_run_may_have_more_epochs_and_not_fewer(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    (tmp_path / "checkpoints" / "1" / "commit_success.txt").touch()
    for epochs in (4, 6):
        runner.claim(tmp_path, tiny.experiment(epochs=epochs))
    with pytest.raises(UserError, match="another config: epochs: 6 -> 4;"):
        runner.claim(tmp_path, tiny.experiment(epochs=4))


def test_a_folder_without_checkpoints_is_free(tmp_path: Path) -> None:
    runner.claim(tmp_path, tiny.experiment(seed=1))
    runner.claim(tmp_path, tiny.experiment(seed=2))
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 2


def test_a_field_that_an_earlier_version_lacked_had_its_default(whole: Path) -> None:
    stored = json.loads((whole / "config.json").read_text())
    del stored["evaluation"]["skip_unreadable"], stored["optimizer"]["ema"]
    same, other = tiny.experiment(**CHANGES), tiny.experiment(**CHANGES, optimizer__ema=0.9)
    assert runner.differences(same, stored) == []
    assert runner.differences(other, stored) == ["optimizer.ema: 0.0 -> 0.9"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "config: epochs must be at least 1, got 0"),
        ({"batch_size": -4}, "config: batch_size must be at least 1, got -4"),
        ({"run__keep": 0}, "config: run.keep must be at least 1, got 0"),
        (
            {"optimizer__backbone_multiplier": -1.0},
            "config: optimizer.backbone_multiplier must be at least 0, got -1.0",
        ),
        ({"evaluation__num_crops": 2}, "config: evaluation.num_crops must be 1, 3 or 10, got 2"),
        ({"evaluation__crop_size": 300}, "config: evaluation.crop_size must be 1 to evaluation.s"),
        ({"data__workers": -1}, "config: data.workers must be at least 0, got -1"),
        (
            {"model__dropout": 1.5},
            r"config: model: TinyConfig.dropout must be in \[0, 1\), got 1.5",
        ),
    ],
)
def test_invalid_values_are_refused_before_anything_is_opened(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        tiny.experiment(**changes)


def test_float64_without_x64_is_refused() -> None:
    with pytest.raises(UserError, match=r"model.dtype is 'float64'.*JAX_ENABLE_X64=1"):
        tiny.experiment(model__dtype="float64")


def test_a_batch_that_is_not_whole_groups_is_refused_before_the_folder_is_made(
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match=r"not a multiple of model.bn_group_size = 4"):
        _run(tmp_path / "run", batch_size=30)
    assert not (tmp_path / "run").exists()


def test_fields_as_lines() -> None:
    lines = runner_lines()
    assert "batch_size = 32" in lines
    assert 'model.name = "tiny"' in lines
    assert "optimizer.betas = [0.9, 0.999]" in lines
    assert len(lines) == len(set(lines)) > 50


def runner_lines() -> list[str]:
    from squeezetime_jax.training.experiment import as_lines

    return as_lines(tiny.experiment()).splitlines()


def test_every_shipped_config_is_described() -> None:
    for name, path in config.shipped_configs().items():
        title, result, *variants = config.describe(path).splitlines()
        assert title.endswith("."), name
        assert result.startswith(("Accuracy", "Frame mAP", "Mean average precision")), name
        assert all(line.startswith("variants: :") for line in variants), name
    assert "variants: :released, :paper" in config.describe(config.shipped_configs()["k400"])
