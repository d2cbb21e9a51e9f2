"""Test videos through the scorer: every video once, whatever the batches and devices."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from squeezetime_jax import SqueezeTime, SqueezeTimeConfig
from squeezetime_jax.data.embedded import motion
from squeezetime_jax.data.sources import FileSource, Source, annotation_list
from squeezetime_jax.errors import UserError
from squeezetime_jax.evaluation import scoring
from squeezetime_jax.evaluation.views import Sampling
from squeezetime_jax.tasks.recognition.scores import TestVideos
from squeezetime_jax.training import devices

SAMPLING = Sampling(one_crop_side=32, crop_size=32, frame_interval=2)


def score(model: Any, source: Source, views: str = "1x1", num_devices: int = 1, **options: Any):
    """The scores of the source's videos."""
    batch_size, skips = options.pop("batch_size", 4), options.pop("skip_unreadable", False)
    protocol = SAMPLING.protocol(views, model.config.num_frames)
    test = TestVideos(source, protocol, 8, batch_size=batch_size, **options)
    return scoring.score(test, model, devices.data_mesh(num_devices), skip_unreadable=skips)


def test_hand_worked_accuracy_of_a_constant_model(
    constant_model: SqueezeTime, videos: Path
) -> None:
    # The labels of the 11 videos are 0 to 7, then 0 to 2. Class 2 always comes first: 2 of 11 are
    # right. The best five are 2, 5, then 0, 1, 3 as the first of equals: 0 (2 videos), 1 (2),
    # 2 (2), 3 and 5: 8 of 11. Of 8 classes, one is always right.
    scores = score(constant_model, annotation_list(videos / "test.txt", videos), "2x1").scores
    expected = {"top1": 2 / 11, "top5": 8 / 11, "mean_class": 1 / 8, "videos": 11}
    assert scores.numbers() == pytest.approx(expected)
    assert list(scores.labels) == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2]
    assert list(scores.video_ids) == list(range(11))
    confusion = np.zeros((8, 8), int)
    confusion[:, 2] = [2, 2, 2, 1, 1, 1, 1, 1]
    np.testing.assert_array_equal(scores.confusion(), confusion)
    assert scores.accuracy.per_class()[0] == (0, 2, 0.0)
    assert scores.accuracy.per_class()[-1] == (2, 2, 1.0)


def test_the_table_has_every_class_and_the_means(constant_model: SqueezeTime, videos: Path) -> None:
    source = annotation_list(videos / "test.txt", videos, videos / "label_map.txt")
    lines = score(constant_model, source).scores.table().splitlines()
    assert lines[1].split() == ["0.00", "%", "2", *motion.CLASSES[0].split()]
    assert lines[8].split() == ["100.00", "%", "2", *motion.CLASSES[2].split()]
    assert lines[9].startswith("11 videos; 1 clip x 1 crop of 32 pixels, frames 4x2")
    assert lines[10] == "top-1 18.18 %   top-5 72.73 %   mean class 12.50 %"


@pytest.fixture
def with_a_broken_one(videos: Path, tmp_path: Path) -> FileSource:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    whole = annotation_list(videos / "test.txt", videos)
    listed = [(str(videos / path), label) for path, label in whole.videos[:3]]
    listed.insert(1, ("broken.mp4", 0))
    return FileSource(tmp_path, listed, motion.CLASSES)


def test_an_unreadable_video_stops_the_evaluation_by_name(
    constant_model: SqueezeTime, with_a_broken_one: FileSource
) -> None:
    with pytest.raises(
        scoring.UnreadableRecords, match=r"1 video cannot be read.*broken\.mp4"
    ) as caught:
        score(constant_model, with_a_broken_one)
    assert caught.value.scored is not None
    assert list(caught.value.scored.scores.video_ids) == [0, 2, 3]  # which are kept


def test_the_first_unreadable_videos_are_named_and_all_of_them_in_a_file(
    constant_model: SqueezeTime,
    with_a_broken_one: FileSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    result = score(constant_model, with_a_broken_one, batch_size=2, skip_unreadable=True)
    scoring.report(result, {})
    assert capsys.readouterr().err.startswith("skipped: broken.mp4: ")
    assert not (tmp_path / "unreadable.txt").exists()
    many = {f"{k}.mp4": f"{k}.mp4: no video" for k in range(5)}
    scoring.report(dataclasses.replace(result, unreadable=many), {})
    lines = capsys.readouterr().err.splitlines()
    assert lines[2:] == ["skipped: 2.mp4: no video", "skipped: all 5 are in unreadable.txt"]
    assert (tmp_path / "unreadable.txt").read_text().splitlines() == list(many.values())


def test_or_is_left_out_and_counted(
    constant_model: SqueezeTime, with_a_broken_one: FileSource, tmp_path: Path
) -> None:
    result = score(constant_model, with_a_broken_one, batch_size=2, skip_unreadable=True)
    assert list(result.scores.video_ids) == [0, 2, 3]
    assert list(result.unreadable) == ["broken.mp4"]
    assert result.num_records == 3
    assert result.scores.to_json()["skipped"] == 1
    result.scores.write(tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz") as saved:
        # Class 2 always comes first, and the labels are 0, 1, 2.
        assert saved["scores"].argmax(1).tolist() == [2, 2, 2]
        assert saved["labels"].tolist() == [0, 1, 2]
        assert saved["paths"][1] == with_a_broken_one.videos[2][0]
        assert list(saved["class_names"]) == list(motion.CLASSES)


def test_labels_beyond_the_network_are_refused(constant_model: SqueezeTime, videos: Path) -> None:
    source = FileSource(videos, [("a.mp4", 8)])
    with pytest.raises(UserError, match="the videos have 9 classes, but the network has 8"):
        score(constant_model, source)


def test_reversing_the_frames_changes_the_scores(model: SqueezeTime, videos: Path) -> None:
    source = annotation_list(videos / "test.txt", videos)
    forward = np.arange(4)[None]
    plain, same, turned = (
        score(model, source, frame_orders=orders).scores.scores
        for orders in (None, forward, forward[:, ::-1].copy())
    )
    np.testing.assert_array_equal(plain, same)
    assert np.abs(plain - turned).max() > 1e-3


def many_devices(videos: str) -> None:
    """Print the scores on several numbers of devices, in several sizes of batches."""
    model = SqueezeTime(SqueezeTimeConfig.tiny(branches="tfc"), nnx.Rngs(0))
    kernel = model.head.classifier.kernel
    kernel.set_value(100 * kernel[...])
    model.eval()
    source = annotation_list(videos + "/test.txt", videos)
    for num_devices, batch in [(1, 1), (2, 7), (8, 30)]:
        scores = score(model, source, "2x1", num_devices, batch_size=batch).scores
        print(json.dumps([scores.numbers(), scores.scores.tolist()]))


def test_any_devices_and_batch_sizes_give_the_same(videos: Path) -> None:
    run = subprocess.run(
        [sys.executable, __file__, videos],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    results = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(results) == 3
    numbers, scores = results[0]
    assert numbers["videos"] == 11
    assert np.ptp(np.array(scores), axis=0).max() > 0.01  # the videos differ
    for other_numbers, other_scores in results[1:]:
        assert other_numbers == numbers
        np.testing.assert_allclose(other_scores, scores, atol=1e-6)


if __name__ == "__main__":
    assert jax.device_count() == 8
    many_devices(sys.argv[1])
