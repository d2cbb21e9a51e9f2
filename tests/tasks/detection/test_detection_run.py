"""Training, evaluation and detection as a whole, on a few tiny videos."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import jax
import numpy as np
import pytest
from flax import nnx
from small_detector import fields

from squeezetime_jax import cli
from squeezetime_jax.checkpoint.store import read_meta, save_model
from squeezetime_jax.data.batches import UnreadableRecord
from squeezetime_jax.data.embedded import people
from squeezetime_jax.errors import UserError
from squeezetime_jax.model.config import SqueezeTimeConfig
from squeezetime_jax.model.squeezetime import SqueezeTime
from squeezetime_jax.tasks.detection.annotations import read_detections, read_ground_truth
from squeezetime_jax.tasks.detection.config import Data, Evaluation
from squeezetime_jax.tasks.detection.dataset import KeyFrames, Split
from squeezetime_jax.tasks.detection.detect import Choices, detect, draw
from squeezetime_jax.tasks.detection.detector import load_detector
from squeezetime_jax.tasks.detection.frames import FolderFrames
from squeezetime_jax.tasks.detection.task import Detection, TestClips, check_actions
from squeezetime_jax.training import config, runner
from squeezetime_jax.training.report import Reporter, read_metrics


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that is done."""
    workdir = tmp_path_factory.mktemp("run")
    runner.train(fields(), workdir, Reporter())
    return workdir


def weights(workdir: Path) -> list[np.ndarray]:
    """Every array of the newest checkpoint."""
    state = nnx.to_pure_dict(nnx.state(load_detector(workdir)))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def test_a_run_learns_and_evaluates(workdir: Path) -> None:
    rows = read_metrics(workdir)
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert len(losses) == 6
    assert losses[-1] < 0.9 * losses[0]
    scores = [row for row in rows if row["kind"] == "eval"]
    assert [row["step"] for row in scores] == [3, 6]
    assert all(0 < row["overall"] < 1 for row in scores)
    meta = read_meta(workdir)
    assert meta.task == "detection"
    assert meta.labels == ["no action", *people.ACTIONS]


@pytest.mark.slow
def test_a_resumed_run_is_the_run(workdir: Path, tmp_path: Path) -> None:
    """Stopped at its first evaluation, then continued: the same weights to the bit."""

    class Stop(Reporter):
        def evaluation(self, step, scores):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.train(fields(), tmp_path, Stop())
    assert len(read_metrics(tmp_path)) < len(read_metrics(workdir))
    runner.train(fields(), tmp_path, Reporter())
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


def test_evaluation_prints_writes_and_draws(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last evaluation of the run, again, and once more from the file of detections."""
    figures = []
    save = "squeezetime_jax.evaluation.pictures.save_figure"
    monkeypatch.setattr(save, lambda figure, path: figures.append(figure) or path)
    written = tmp_path / "found.csv"
    arguments = {"as_json": True, "scores": written, "save": tmp_path / "ap.png"}
    runner.evaluate(fields(), str(workdir), **arguments)
    found = json.loads(capsys.readouterr().out)
    (last,) = [row for row in read_metrics(workdir) if row["kind"] == "eval" and row["step"] == 6]
    assert found["overall"] == pytest.approx(last["overall"], abs=1e-6)
    assert found["frames"] == 6
    assert list(found["classes"]) == list(people.ACTIONS)
    (axes,) = figures[0].axes
    names = [text.get_text() for text in axes.get_yticklabels()]
    drawn = dict(zip(names, [bar.get_width() for bar in axes.patches], strict=True))
    known = {name: 100 * ap for name, ap in found["classes"].items() if ap is not None}
    assert drawn == pytest.approx(known)
    files = people.written(workdir / "videos", "test")
    persons = len(KeyFrames(read_ground_truth(files.ground_truth), 15)[0].boxes)
    assert 0 < (read_detections(written).frame == 0).sum() <= persons * len(people.ACTIONS)
    again = ["--ground-truth", str(files.ground_truth), "--labels", str(files.actions)]
    assert cli.main(["frame-map", *again, "--detections", str(written), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["overall"] == found["overall"]


@pytest.fixture
def video(workdir: Path) -> str:
    return str(workdir / "videos" / "videos" / "test_00000.mp4")


def test_the_command_detects_and_draws(
    workdir: Path, video: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    boxes = str(people.written(workdir / "videos", "test").ground_truth)
    drawn = tmp_path / "drawn.mp4"
    command = ["detect", video, "--checkpoint", str(workdir), "--boxes", boxes, "--score", "0"]
    assert cli.main([*command, "--json", "--save", str(drawn)]) == 0
    found = json.loads(capsys.readouterr().out)
    truth = KeyFrames(read_ground_truth(boxes), 15)[0]
    assert found["second"] == people.SECOND
    np.testing.assert_allclose([b["box"] for b in found["boxes"]], truth.boxes)
    assert len(found["boxes"][0]["actions"]) == len(people.ACTIONS)
    with av.open(str(drawn)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert np.shape(pictures) == (people.FPS * people.SECONDS, 480, 480, 3)
    edge = np.array(truth.boxes[0] * 479).round().astype(int)
    colour = pictures[16][(edge[1] + edge[3]) // 2, edge[0]].astype(int)  # of the box's left edge
    assert np.abs(colour - (255, 196, 0)).max() < 60


def test_detection_takes_whole_frames_or_a_detector(workdir: Path, video: str) -> None:
    whole = detect(video, Choices(str(workdir)))
    assert [second.boxes.tolist() for second in whole] == [[[0, 0, 1, 1]]] * 2
    half = detect(video, Choices(str(workdir), boxes="test_detection_run:left_half"))
    assert half[0].boxes.tolist() == [[0, 0, 0.5, 1]]
    assert np.abs(half[0].scores - whole[0].scores).max() > 1e-6


def left_half(frame: np.ndarray) -> list:
    height, width = frame.shape[:2]
    return [(0, 0, width / 2, height)]


def test_invalid_boxes_for_detection_are_named(workdir: Path, video: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a csv file, `whole`"):
        detect(video, Choices(str(workdir), boxes="nowhere:nothing"))
    (tmp_path / "gt.csv").write_text("v,0902,0.1,0.1,0.2,0.2\n")
    with pytest.raises(UserError, match=r"gt.csv: no row of test_00000"):
        detect(video, Choices(str(workdir), boxes=str(tmp_path / "gt.csv")))
    boxes = str(people.written(workdir / "videos", "test").ground_truth)
    with pytest.raises(UserError, match=r"second 901 of test_00000 is outside .*--begins-at"):
        detect(video, Choices(str(workdir), boxes=boxes, begins_at=0.0))


def test_a_recogniser_is_not_a_detector(tmp_path: Path) -> None:
    save_model(tmp_path / "weights", SqueezeTime(SqueezeTimeConfig.tiny(), nnx.Rngs(0)))
    (tmp_path / "config.json").write_text('{"data": {"crop": "center"}}')  # of recognition
    with pytest.raises(UserError, match=r"weights: not a detector"):
        detect("v.mp4", Choices(str(tmp_path / "weights")))


def test_a_box_is_drawn_with_its_actions_on_an_enlarged_frame() -> None:
    frame = np.full((100, 120, 3), 90, np.uint8)
    picture = draw(frame, np.array([[0.25, 0.2, 0.75, 0.8]]), [["walk 90%", "sit 20%"]])
    assert picture.shape == (500, 600, 3)
    assert picture[250, 150].tolist() == [255, 196, 0]  # the left edge
    assert picture[250, 300].tolist() == [90, 90, 90]  # inside
    text = (picture[100:160, 155:300] == 0).all(-1)
    assert text.mean() > 0.1  # the black behind the letters
    plain = draw(frame, np.array([[0.25, 0.2, 0.75, 0.8]]), [[]])
    assert not (plain[105:160, 155:300] == 0).all(-1).any()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Detection(config.parse(fields()), tmp_path_factory.mktemp("data")).data


def test_actions_with_the_numbers_of_others_are_refused_by_name() -> None:
    known = ["no action", "stand", "sit", "action 3"]
    check_actions({1: "Stand", 2: "sit", 3: "run"}, known, "list.pbtxt")
    with pytest.raises(UserError, match=r"list.pbtxt: action 2 is 'walk', but 'sit' in the check"):
        check_actions({1: "stand", 2: "walk"}, known, "list.pbtxt")


def test_a_training_sample_holds_the_boxes_that_count(data: Data) -> None:
    split = Split(data, "train", 15, 4)
    sample = split.training_sample(2, np.random.default_rng(0))
    key_frame = split.key_frames[2]
    count = len(key_frame.boxes)
    assert sample["clips"].shape == (4, 32, 32, 3)
    np.testing.assert_allclose(sample["boxes"][:count], 32 * key_frame.boxes, rtol=1e-6)
    np.testing.assert_array_equal(sample["labels"][:count], key_frame.labels)
    assert count <= sample["mask"].sum() <= 2 * count
    assert not sample["labels"][~sample["mask"]].any()
    again = split.training_sample(2, np.random.default_rng(0))
    np.testing.assert_array_equal(again["clips"], sample["clips"])


def test_a_crop_moves_the_boxes(data: Data) -> None:
    split = Split(dataclasses.replace(data, crop="multi_scale", short_side=40), "train", 15, 4)
    plain = 32 * split.key_frames[0].boxes
    moved = 0
    for seed in range(8):
        sample = split.training_sample(0, np.random.default_rng(seed))
        assert sample["clips"].shape == (4, 32, 32, 3)
        boxes = sample["boxes"][sample["mask"]]
        assert (boxes >= 0).all()
        assert (boxes < 32).all()
        moved += not np.allclose(boxes[: len(plain)], plain, atol=0.5)
    assert moved >= 5


def test_a_missing_frame_is_named(data: Data, tmp_path: Path) -> None:
    split = Split(data, "test", 15, 4)
    split.frames = FolderFrames(tmp_path)
    with pytest.raises(UnreadableRecord, match=r"test_00000/img_00002\.jpg: cannot read the frame"):
        TestClips(split, Evaluation()).read(0)
    with pytest.raises(UnreadableRecord, match=r"test_00001/img_000\d\d\.jpg"):
        split.training_sample(1, np.random.default_rng(0))


def test_test_clips_have_the_proposals_that_count(data: Data) -> None:
    split = Split(data, "test", 15, 4)
    orders = np.tile([3, 2, 1, 0], (6, 1))
    sample, reversed_ = (TestClips(split, Evaluation(), each).read(0) for each in (None, orders))
    np.testing.assert_array_equal(sample["clips"][::-1], reversed_["clips"])
    assert sample["num_boxes"] == len(split.key_frames[0].boxes)  # false ones score too little
    blank = TestClips(split, Evaluation()).blank()
    assert {k: v.shape for k, v in blank.items()} == {k: v.shape for k, v in sample.items()}


def test_the_sample_of_mmaction2_as_key_frames(reference: Callable[[str], Path]) -> None:
    path = reference("annotations/ava_sample/ava_dataset/ava_sample.csv")
    rows = read_ground_truth(path, max_action=80)
    frames = KeyFrames(rows, 81)
    assert frames.frames == rows.frames
    assert len(frames) == 3
    first = frames[0]
    assert first.boxes.tolist() == [[0.031, 0.162, 0.67, 0.995]]
    assert np.flatnonzero(first.labels[0]).tolist() == [12, 17, 79]
    assert np.flatnonzero(frames[2].labels[0]).tolist() == [12, 74, 80]
    excluded = {("0f39OWEqJ24", 903), ("_-Z6wFjXtGQ", 902)}
    assert len(KeyFrames(rows, 81, excluded)) == 1


def test_rows_of_equal_boxes_are_one_person(tmp_path: Path) -> None:
    table = tmp_path / "gt.csv"
    table.write_text(
        "v,0902,0.1,0.2,0.3,0.4,2,0\nw,0903,0,0,1,1,1,0\nv,0902,0.1,0.2,0.3,0.4,3,0\n"
        "v,0902,0.5,0.2,0.8,0.4,1,1\n"
    )
    frames = KeyFrames(read_ground_truth(table), 4, {("w", 903)})
    assert frames.frames == [("v", 902)]
    assert frames[0].boxes.tolist() == [[0.1, 0.2, 0.3, 0.4], [0.5, 0.2, 0.8, 0.4]]
    assert frames[0].labels.astype(int).tolist() == [[0, 0, 1, 1], [0, 1, 0, 0]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test": "none.csv"}, "none.csv: cannot be read"),
        ({"test": ""}, "data.test is empty"),
        ({"frames": ""}, "data.frames is empty"),
        ({"frames": "nowhere"}, "nowhere: no such folder"),
        ({"start": 0, "end": 900}, r"second 901 of test_00000 is not in \[0, 900\]"),
    ],
)
def test_missing_and_foreign_files_are_named(data: Data, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Split(dataclasses.replace(data, **changes), "test", 15, 4)


def test_proposals_of_another_split_are_refused(data: Data) -> None:
    changed = dataclasses.replace(data, test_proposals=data.train_proposals)
    with pytest.raises(UserError, match="no proposals for any of the 6 frames"):
        Split(changed, "test", 15, 4)


def test_an_action_beyond_the_networks_classes_is_named(data: Data) -> None:
    with pytest.raises(UserError, match=r"people_test\.csv, line \d+: expected an action id from"):
        Split(data, "test", 3, 4)
