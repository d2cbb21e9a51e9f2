"""The pipeline: the same samples whatever runs them, each video once, no bad video unnoticed."""

import functools
import itertools
import logging
import shutil
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest

from squeezetime_jax.data import batches as any_task
from squeezetime_jax.data import pipeline, prepare, sources
from squeezetime_jax.data.embedded import motion
from squeezetime_jax.data.transforms import ViewProtocol
from squeezetime_jax.errors import UserError

CLIP = {"num_frames": 4, "frame_interval": 1, "short_side": 32, "size": 24}
PROTOCOL = ViewProtocol(
    num_clips=2, num_crops=1, short_side=32, crop_size=24, num_frames=4, frame_interval=1
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return motion.write_motion_dataset(
        tmp_path_factory.mktemp("data") / "motion", num_train=13, num_test=8, size=32, num_frames=6
    )


@pytest.fixture(scope="module")
def source(folder) -> sources.FileSource:
    return sources.annotation_list(folder / "train.txt", folder, folder / "label_map.txt")


def take(source, number: int, **how) -> list[dict[str, np.ndarray]]:
    batches = pipeline.train_batches(source, **({"batch_size": 4, "seed": 5} | CLIP | how))
    taken = list(itertools.islice(batches, number))
    batches.close()
    return taken


def assert_same(found, wanted) -> None:
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


@pytest.fixture(scope="module")
def reference(source) -> list[dict[str, np.ndarray]]:
    return take(source, 8)


def test_a_batch_is_what_it_says(reference):
    for batch in reference:
        assert batch.keys() == {"clips", "labels"}
        assert (batch["clips"].shape, batch["clips"].dtype) == ((4, 4, 24, 24, 3), np.uint8)
        assert (batch["labels"].shape, batch["labels"].dtype) == ((4,), np.int32)


def test_a_sample_is_its_video_cut_by_its_own_generator(source):
    """Position 15 lies in epoch 1; its record follows from the order, its cut from the three."""
    clip = pipeline.TrainingClip(**CLIP)
    draw = functools.partial(pipeline._labelled_clip, source, clip)
    sample = any_task._training_sample(draw, len(source), 5, 15, 7)
    wanted = clip.cut(source[7], np.random.default_rng([5, 1, 7]))
    np.testing.assert_array_equal(sample["clips"], wanted)
    assert sample["labels"] == source[7].label
    other_epoch = any_task._training_sample(draw, len(source), 5, 2, 7)
    assert (other_epoch["clips"] != sample["clips"]).any()


def test_each_epoch_shows_each_video_once_in_another_order(source, monkeypatch):
    def identify(draw, num_records, seed, position, number):
        return {"clips": np.zeros(1), "labels": np.int32(number), "bad": []}

    monkeypatch.setattr(any_task, "_training_sample", identify)
    numbers = np.concatenate([batch["labels"] for batch in take(source, 13)])  # four epochs
    epochs = numbers.reshape(4, 13)
    for epoch in epochs:
        assert sorted(epoch) == list(range(13))
    assert len({tuple(epoch) for epoch in epochs}) == 4
    other = np.concatenate([batch["labels"] for batch in take(source, 13, seed=6)])
    assert (other != numbers).any()


def test_a_resumed_run_goes_on_to_the_bit(source, reference):
    assert_same(take(source, 3, start_step=5), reference[5:])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_no_sample_and_resume_to_the_bit(source, reference, workers):
    assert_same(take(source, 5, workers=workers, start_step=3), reference[3:])


def test_hosts_share_each_batch(source, reference):
    shares = [take(source, 4, process_index=i, process_count=2) for i in range(2)]
    for number in range(4):
        for name in ("clips", "labels"):
            both = np.stack([shares[i][number][name] for i in range(2)], 1)
            whole = both.reshape(4, *both.shape[2:])  # host i has every second clip
            np.testing.assert_array_equal(whole, reference[number][name])


@pytest.mark.slow
def test_shards_give_the_samples_of_the_files(source, folder, reference, tmp_path):
    names = source.class_names
    prepare.prepare(
        prepare.Job(source.videos, folder, tmp_path, "train", form="jpeg", class_names=names),
        processes=1,
    )
    shards = sources.open_source(tmp_path, split="train")
    for found, wanted in zip(take(shards, 3), reference, strict=False):
        np.testing.assert_array_equal(found["labels"], wanted["labels"])
        assert np.abs(found["clips"].astype(int) - wanted["clips"]).mean() < 9  # coded twice


def test_samples_that_wait_are_bounded_in_memory():
    assert any_task._ahead(64, 16 * 224 * 224 * 3) == 128
    assert any_task._ahead(64, 30 * 16 * 224 * 224 * 3) == 14  # 1 GiB of test views
    assert any_task._ahead(1, 1 << 40) == 1


def test_uniform_frames_and_the_centre_crop(source):
    batch = take(source, 1, frame_interval=None, crop="center")[0]
    assert batch["clips"].shape == (4, 4, 24, 24, 3)
    record = source[0]
    clip = pipeline.TrainingClip(**CLIP | {"frame_interval": None, "crop": "center"})
    found = clip.cut(record, np.random.default_rng(0))
    with record.open() as video:
        frames = video.frames(range(6))[:, 4:28, 4:28]
    places = [np.flatnonzero((frames == f).all((1, 2, 3)))[0] for f in found]
    assert places == sorted(places)
    assert places[0] <= 1
    assert places[-1] >= 4


def damaged(folder: Path, tmp_path: Path, number: int, copies: int = 1) -> sources.FileSource:
    """The training videos, `copies` times in the list, the first `number` files no videos."""
    shutil.copytree(folder, tmp_path / "copy")
    lines = (folder / "train.txt").read_text().splitlines()
    for line in lines[:number]:
        (tmp_path / "copy" / line.rsplit(" ", 1)[0]).write_bytes(b"no video")
    if copies > 1:
        for copy, line in itertools.product(range(copies), lines[number:]):
            name = line.rsplit(" ", 1)[0]
            link = tmp_path / "copy" / f"{copy}_{Path(name).name}"
            link.hardlink_to(tmp_path / "copy" / name)
            lines.append(f"{link.name} {line.rsplit(' ', 1)[1]}")
    (tmp_path / "copy" / "list.txt").write_text("\n".join(lines))
    return sources.annotation_list(tmp_path / "copy" / "list.txt", tmp_path / "copy")


def test_another_record_stands_in_for_a_bad_video(folder, tmp_path, caplog):
    source = damaged(folder, tmp_path, 1, copies=10)
    assert len(source) == 133
    with caplog.at_level(logging.WARNING):
        batches = pipeline.train_batches(source, batch_size=4, seed=5, **CLIP)
        taken = list(itertools.islice(batches, 70))  # two epochs
        batches.close()
    assert list(batches.bad_videos) == ["train/moving_right/00000.mp4"]
    assert len(caplog.records) == 1
    assert "train/moving_right/00000.mp4" in caplog.text
    resumed = pipeline.train_batches(source, batch_size=4, seed=5, start_step=20, **CLIP)
    assert_same(list(itertools.islice(resumed, 50)), taken[20:])
    resumed.close()


def test_more_than_one_percent_bad_is_an_error(folder, tmp_path):
    source = damaged(folder, tmp_path, 1)
    batches = pipeline.train_batches(source, batch_size=4, seed=5, **CLIP)
    with pytest.raises(UserError, match=r"1 unreadable videos, more than 1% .*00000\.mp4"):
        list(itertools.islice(batches, 4))
    batches.close()


def test_nothing_but_bad_videos_is_an_error_at_once(folder, tmp_path):
    source = damaged(folder, tmp_path, 13)
    batches = pipeline.train_batches(source, batch_size=4, seed=5, **CLIP)
    with pytest.raises(UserError, match="unreadable videos"):
        next(batches)
    batches.close()


def test_a_batch_larger_than_the_source_or_indivisible_is_named(source):
    with pytest.raises(UserError, match="batch_size: found 14, more than the source's 13 videos"):
        take(source, 1, batch_size=14)
    with pytest.raises(UserError, match="batch_size: found 5, wanted a positive multiple of the 2"):
        take(source, 1, batch_size=5, process_count=2)


def evaluate(source, **how) -> list[dict[str, np.ndarray]]:
    batches = pipeline.eval_batches(source, PROTOCOL, **({"batch_size": 4} | how))
    try:
        return list(batches)
    finally:
        batches.close()


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_evaluation_meets_each_video_once_on_any_number_of_hosts(source, hosts):
    shares = [evaluate(source, process_index=i, process_count=hosts) for i in range(hosts)]
    assert {len(share) for share in shares} == {4}  # 13 videos, 4 at a time
    seen: Counter[int] = Counter()
    for batch in itertools.chain(*shares):
        assert batch["clips"].shape == (4 // hosts, 2, 4, 24, 24, 3)
        for row in np.flatnonzero(batch["mask"]):
            number = int(batch["video_ids"][row])
            seen[number] += 1
            assert batch["labels"][row] == source[number].label
    assert seen == Counter(range(13))


def test_views_are_grouped_by_video(source):
    batch = evaluate(source)[1]
    with source[6].open() as video:
        frames = video.frames(range(6))[:, 4:28, 4:28]
    row = list(batch["video_ids"]).index(6)
    np.testing.assert_array_equal(batch["clips"][row, 0], frames[0:4])
    np.testing.assert_array_equal(batch["clips"][row, 1], frames[2:6])


@pytest.mark.slow
def test_workers_change_no_evaluation(source):
    assert_same(evaluate(source, workers=2), evaluate(source))


def test_evaluation_lists_all_unreadable_videos(folder, tmp_path):
    source = damaged(folder, tmp_path, 2)
    batches = pipeline.eval_batches(source, PROTOCOL, batch_size=4)
    with pytest.raises(UserError, match=r"2 videos cannot be read: .*00000\.mp4.*00001\.mp4"):
        list(batches)
    batches.close()


def test_evaluation_skips_unreadable_videos_when_asked(folder, tmp_path):
    source = damaged(folder, tmp_path, 2)
    batches = pipeline.eval_batches(source, PROTOCOL, batch_size=4, skip_unreadable=True)
    masks = np.concatenate([batch["mask"] for batch in batches])
    assert masks.sum() == 11
    assert set(batches.unreadable) == {
        "train/moving_right/00000.mp4", "train/moving_left/00001.mp4"
    }  # fmt: skip
    batches.close()


def test_to_devices_makes_global_arrays_ahead_of_their_use(source, reference):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P("data"))
    with any_task.to_devices(iter(reference), sharding) as batches, jax.transfer_guard("disallow"):
        on_devices = list(batches)
    assert all(batch["clips"].sharding == sharding for batch in on_devices)
    assert_same(jax.device_get(on_devices), reference)


def test_to_devices_raises_what_reading_raises(reference):
    def failing():
        yield reference[0]
        raise UserError("the disk is gone")

    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with any_task.to_devices(failing(), sharding) as batches:
        next(batches)
        with pytest.raises(UserError, match="the disk is gone"):
            next(batches)


def test_to_devices_can_be_left_early(reference):
    taken = []
    endless = (taken.append(k) or reference[k % 8] for k in itertools.count())
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with any_task.to_devices(endless, sharding) as batches:
        next(batches)
    assert len(taken) < 8
