import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from small import SAMPLING

from squeezetime_jax import SqueezeTime
from squeezetime_jax.data.embedded import motion
from squeezetime_jax.data.sources import FileSource, annotation_list
from squeezetime_jax.errors import UserError
from squeezetime_jax.tasks.recognition import recognize


def one_device() -> Mesh:
    return Mesh(np.array(jax.devices()[:1]), ("data",))


def test_hand_worked_accuracy_of_a_constant_model(
    constant_model: SqueezeTime, videos: Path
) -> None:
    # The labels of the 11 videos are 0 to 7, then 0 to 2. Class 2 always comes first: 2 of 11 are
    # right. The best five are 2, 5, then 0, 1, 3 as the first of equals: 0 (2 videos), 1 (2),
    # 2 (2), 3 and 5: 8 of 11. Of 8 classes, one is always right.
    source = annotation_list(videos / "test.txt", videos)
    result = recognize.evaluate(
        constant_model, source, SAMPLING.protocol("2x1", 4), mesh=one_device(), batch_size=4
    )
    wanted = {"top1": 2 / 11, "top5": 8 / 11, "mean_class": 1 / 8, "videos": 11}
    assert result.compute() == pytest.approx(wanted)
    assert list(result.labels) == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2]
    confusion = np.zeros((8, 8), int)
    confusion[:, 2] = [2, 2, 2, 1, 1, 1, 1, 1]
    np.testing.assert_array_equal(result.confusion(), confusion)
    assert recognize.per_class(result.accuracy)[0] == (0, 2, 0.0)
    assert recognize.per_class(result.accuracy)[-1] == (2, 2, 1.0)


MANY_DEVICES = """
import json, sys
import jax, numpy as np
from jax.sharding import Mesh
from squeezetime_jax import load
from squeezetime_jax.data.sources import annotation_list
from squeezetime_jax.tasks.recognition import recognize
from small import SAMPLING
checkpoint, videos = sys.argv[1:]
source = annotation_list(videos + "/test.txt", videos)
for devices, batch in [(1, 1), (2, 7), (8, 30)]:
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    result = recognize.evaluate(
        load(checkpoint), source, SAMPLING.protocol("2x1", 4), mesh=mesh, batch_size=batch
    )
    print(json.dumps([devices, batch, result.compute(), result.scores.tolist()]))
"""


@pytest.mark.slow
def test_any_devices_and_batch_sizes_give_the_same(checkpoint: Path, videos: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", MANY_DEVICES, checkpoint, videos],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    results = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(results) == 3
    _, _, metrics, scores = results[0]
    assert metrics["videos"] == 11
    assert np.ptp(np.array(scores), axis=0).max() > 0.01  # the videos differ
    for _, _, other_metrics, other_scores in results[1:]:
        assert other_metrics == metrics
        np.testing.assert_allclose(other_scores, scores, atol=1e-6)


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
    with pytest.raises(UserError, match=r"1 video cannot be read; .*: broken\.mp4"):
        recognize.evaluate(
            constant_model, with_a_broken_one, SAMPLING.protocol("1x1", 4), mesh=one_device()
        )


def test_or_is_left_out_and_counted(
    constant_model: SqueezeTime, with_a_broken_one: FileSource, tmp_path: Path
) -> None:
    result = recognize.evaluate(
        constant_model,
        with_a_broken_one,
        SAMPLING.protocol("1x1", 4),
        mesh=one_device(),
        batch_size=2,
        skip_unreadable=True,
    )
    assert list(result.video_ids) == [0, 2, 3]
    assert result.num_skipped == 1
    assert list(result.unreadable) == ["broken.mp4"]
    assert result.compute()["videos"] == 3
    recognize.save_scores(tmp_path / "s.npz", result, with_a_broken_one, motion.CLASSES)
    with np.load(tmp_path / "s.npz") as saved:
        assert float((saved["scores"].argmax(1) == saved["labels"]).mean()) == pytest.approx(
            result.compute()["top1"]
        )
        assert saved["paths"][1] == with_a_broken_one.videos[2][0]
        assert list(saved["class_names"]) == list(motion.CLASSES)


def test_labels_beyond_the_network_are_refused(constant_model: SqueezeTime, videos: Path) -> None:
    source = FileSource(videos, [("a.mp4", 8)])
    with pytest.raises(UserError, match="9 classes, but the network knows 8"):
        recognize.evaluate(constant_model, source, SAMPLING.protocol("1x1", 4), mesh=one_device())
