"""Training, evaluation and detection as a whole, on a few tiny videos."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from small_detector import fields

from squeezetime_jax import cli
from squeezetime_jax.checkpoint.store import find_step, read_meta
from squeezetime_jax.data.batches import UnreadableRecord
from squeezetime_jax.data.embedded import people
from squeezetime_jax.errors import UserError
from squeezetime_jax.tasks.detection import evaluate, experiment
from squeezetime_jax.tasks.detection.annotations import read_detections, read_ground_truth
from squeezetime_jax.tasks.detection.dataset import (
    KeyFrames,
    TestClips,
    open_split,
    training_sample,
)
from squeezetime_jax.tasks.detection.detect import Choices, look
from squeezetime_jax.tasks.detection.moments import FolderFrames
from squeezetime_jax.tasks.detection.weights import load_detector
from squeezetime_jax.training.report import Silence, read_metrics

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is done."""
    workdir = tmp_path_factory.mktemp("run")
    experiment.run_experiment(fields(), workdir, Silence())
    return workdir


def weights(workdir: Path) -> list[np.ndarray]:
    """Every array of the newest checkpoint."""
    state = nnx.to_pure_dict(nnx.state(load_detector(workdir)))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


@pytest.mark.slow
def test_a_run_learns_evaluates_and_keeps_its_best(workdir: Path) -> None:
    rows = read_metrics(workdir)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0]
    assert any("overall" in str(row) for row in rows)
    meta = read_meta(workdir)
    assert meta.task == "detection"
    assert meta.labels == ["no action", *people.ACTIONS]


@pytest.mark.slow
def test_a_resumed_run_is_the_run(workdir: Path, tmp_path: Path) -> None:
    """Stopped after its first epoch, then taken up again: the same weights to the bit."""

    class Stop(Silence):
        def evaluation(self, step, scores):
            raise KeyboardInterrupt

    changes = {"run__save_epochs": 0.34}
    with pytest.raises(KeyboardInterrupt):
        experiment.run_experiment(fields(**changes), tmp_path, Stop())
    assert int(find_step(tmp_path).name) < 6
    experiment.run_experiment(fields(**changes), tmp_path, Silence())
    for mine, whole in zip(weights(tmp_path), weights(workdir), strict=True):
        np.testing.assert_array_equal(mine, whole)


@pytest.mark.slow
def test_any_number_of_devices_gives_the_same_losses(tmp_path: Path) -> None:
    program = Path(__file__).with_name("small_detector.py")
    settings = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
    settings["XLA_FLAGS"] = "--xla_backend_optimization_level=1"
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path / "v"), "5", "1,8", "augmentation__flip=0.5"],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    one, eight = (json.loads(line)["losses"] for line in done.stdout.splitlines())
    assert eight == pytest.approx(one, abs=1e-5)


@pytest.mark.slow
def test_evaluation_prints_writes_and_draws(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    written, picture = tmp_path / "found.csv", tmp_path / "ap.png"
    arguments = {"as_json": True, "scores": written, "save": picture}
    assert experiment.evaluate(fields(), str(workdir), **arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 <= found["overall"] <= 1
    assert found["frames"] == 6
    assert list(found["classes"]) == list(people.ACTIONS)
    files = people.written(workdir / "videos", "test")
    rows = read_detections(written)
    persons = len(KeyFrames(read_ground_truth(files.ground_truth), 15)[0].boxes)
    assert (rows.frame == 0).sum() <= persons * len(people.ACTIONS)
    assert picture.stat().st_size > 1000
    again = ["--ground-truth", str(files.ground_truth), "--labels", str(files.actions)]
    assert evaluate.main([*again, "--detections", str(written), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["overall"] == found["overall"]


@pytest.mark.slow
def test_the_command_detects_and_draws(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    video = str(workdir / "videos" / "videos" / "test_00000.mp4")
    boxes = str(people.written(workdir / "videos", "test").ground_truth)
    drawn = tmp_path / "drawn.mp4"
    command = ["detect", video, "--checkpoint", str(workdir), "--boxes", boxes, "--score", "0"]
    assert cli.main([*command, "--json", "--save", str(drawn)]) == 0
    found = json.loads(capsys.readouterr().out)
    truth = KeyFrames(read_ground_truth(boxes), 15)[0]
    assert found["second"] == people.SECOND
    np.testing.assert_allclose([b["box"] for b in found["boxes"]], truth.boxes)
    assert len(found["boxes"][0]["actions"]) == len(people.ACTIONS)
    assert drawn.stat().st_size > 1000
    whole = look(video, Choices(str(workdir)))
    assert [seen.boxes.tolist() for seen in whole] == [[[0, 0, 1, 1]]] * 2
    find = look(video, Choices(str(workdir), boxes="test_detection_run:left_half"))
    assert find[0].boxes.tolist() == [[0, 0, 0.5, 1]]
    with pytest.raises(UserError, match="wanted a csv file, `whole`"):
        look(video, Choices(str(workdir), boxes="nowhere:nothing"))
    with pytest.raises(UserError, match=r"has no row of test_00000"):
        look(video, Choices(str(workdir), boxes=str(DATA / "gt.csv")))
    with pytest.raises(UserError, match=r"line 1: second 901.*--begins-at"):
        look(video, Choices(str(workdir), boxes=boxes, begins_at=0.0))


def left_half(frame: np.ndarray) -> list:
    height, width = frame.shape[:2]
    return [(0, 0, width / 2, height)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory):
    return experiment.with_files(
        experiment.parse(fields()), tmp_path_factory.mktemp("data") / "videos"
    )


def test_a_training_sample_holds_the_boxes_that_count(data) -> None:
    split = open_split(data, "train", 15, 4)
    sample = training_sample(split, data, 4, np.random.default_rng(0), 2)
    key_frame = split.key_frames[2]
    count = len(key_frame.boxes)
    assert sample["clips"].shape == (4, 32, 32, 3)
    np.testing.assert_allclose(sample["boxes"][:count], 32 * key_frame.boxes, rtol=1e-6)
    np.testing.assert_array_equal(sample["labels"][:count], key_frame.labels)
    assert count <= sample["mask"].sum() <= 2 * count
    assert not sample["labels"][~sample["mask"]].any()
    again = training_sample(split, data, 4, np.random.default_rng(0), 2)
    np.testing.assert_array_equal(again["clips"], sample["clips"])


def test_a_crop_moves_the_boxes(data) -> None:
    cropped = dataclasses.replace(data, crop="multi_scale", short_side=40)
    split = open_split(cropped, "train", 15, 4)
    plain = 32 * split.key_frames[0].boxes
    moved = 0
    for seed in range(8):
        sample = training_sample(split, cropped, 4, np.random.default_rng(seed), 0)
        assert sample["clips"].shape == (4, 32, 32, 3)
        boxes = sample["boxes"][sample["mask"]]
        assert (boxes >= 0).all()
        assert (boxes < 32).all()
        moved += not np.allclose(boxes[: len(plain)], plain, atol=0.5)
    assert moved >= 5


def test_a_missing_frame_is_named(data, tmp_path: Path) -> None:
    split = open_split(data, "test", 15, 4)
    split = dataclasses.replace(split, frames=FolderFrames(tmp_path))
    with pytest.raises(UnreadableRecord, match=r"test_00000/img_00002\.jpg: frame is not readable"):
        TestClips(split, data, 4)(0)
    with pytest.raises(UnreadableRecord, match=r"test_00001/img_000\d\d\.jpg"):
        training_sample(split, data, 4, np.random.default_rng(0), 1)


def test_test_clips_are_the_proposals_that_count(data) -> None:
    split = open_split(data, "test", 15, 4)
    orders = np.tile([3, 2, 1, 0], (6, 1))
    sample, reversed_ = (TestClips(split, data, 4, o)(0) for o in (None, orders))
    np.testing.assert_array_equal(sample["clips"][::-1], reversed_["clips"])
    assert sample["num_boxes"] == len(split.key_frames[0].boxes)  # those that are not sure are left


def test_the_sample_of_mmaction2_as_key_frames() -> None:
    rows = read_ground_truth(DATA / "ava_sample.csv", max_action=80)
    frames = KeyFrames(rows, 81)
    assert [frames.frame(k) for k in range(len(frames))] == rows.frames
    assert len(frames) == 3
    first = frames[0]
    assert first.boxes.tolist() == [[0.031, 0.162, 0.67, 0.995]]
    assert np.flatnonzero(first.labels[0]).tolist() == [12, 17, 79]
    assert np.flatnonzero(frames[2].labels[0]).tolist() == [12, 74, 80]
    excluded = {("0f39OWEqJ24", 903), ("_-Z6wFjXtGQ", 902)}
    assert len(KeyFrames(rows, 81, excluded)) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test": "none.csv"}, "none.csv: not readable"),
        ({"test": ""}, "data.test is empty"),
        ({"frames": ""}, "data.frames is empty"),
        ({"frames": "nowhere"}, "nowhere: no such folder"),
        ({"test_proposals": str(DATA / "proposal.pkl")}, "has none of the 6 frames"),
    ],
)
def test_what_is_not_there_is_named(data, changes: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_split(dataclasses.replace(data, **changes), "test", 15, 4)


def test_an_action_that_the_network_has_not_is_named(data) -> None:
    with pytest.raises(UserError, match=r"people_test\.csv, line \d+: found action id"):
        open_split(data, "test", 3, 4)


def test_fields_without_a_use_are_refused() -> None:
    with pytest.raises(UserError, match=r"optimizer\.mixup is 0\.2"):
        experiment.parse(fields(optimizer__mixup=0.2))
