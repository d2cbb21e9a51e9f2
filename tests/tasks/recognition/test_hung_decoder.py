"""A decoder that hangs while a network is trained or evaluated."""

import time

import numpy as np
import pytest

from squeezetime_jax.data import workers
from squeezetime_jax.data.batches import endless_batches, ordered_batches
from squeezetime_jax.data.embedded import motion
from squeezetime_jax.data.sources import open_source
from squeezetime_jax.data.transforms import TrainingClip
from squeezetime_jax.data.video import Video
from squeezetime_jax.tasks.recognition import videos


def test_training_and_evaluation_go_on_without_the_video(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = motion.write_motion_dataset(tmp_path, num_train=8, num_test=1, size=32, num_frames=6)
    source = open_source(folder / "train.txt")
    hung = source[3].name

    def frames(self: Video, *args: object, plain: object = Video.frames, **how: object) -> object:
        if self.name == hung:
            time.sleep(30)
        return plain(self, *args, **how)  # type: ignore[operator]

    monkeypatch.setattr(Video, "frames", frames)
    monkeypatch.setattr(workers, "CLIP_SECONDS", 1.0)
    train = object.__new__(videos.TrainingVideos)
    train._source, train._clip = source, TrainingClip(2, 1, 32, 32, "center")
    batches = endless_batches(
        lambda rng, number: train.read(number, rng), 8, batch_size=4, seed=0, sample_bytes=1
    )
    shapes = [next(batches)["clips"].shape for _ in range(4)]
    batches.close()
    assert shapes == [(4, 2, 32, 32, 3)] * 4
    assert list(batches.bad_videos) == [hung]

    protocol = videos.ViewProtocol(1, 1, 32, 32, num_frames=2, frame_interval=1)
    blank = {"clips": np.zeros((1, 2, 32, 32, 3), np.uint8), "labels": np.int32(0)}
    tested = ordered_batches(
        lambda number: videos.read_views(source, number, protocol), blank, 8, batch_size=8
    )
    (batch,) = list(tested)
    tested.close()
    assert batch["mask"].sum() == 7
    assert list(tested.unreadable) == [hung]
