"""Batches: the same samples however they are read, each video once, each bad video reported."""

import dataclasses
import functools
import itertools
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import grain
import jax
import numpy as np
import pytest
from labelled import draw_clip, eval_batches, train_batches

from squeezetime_jax.data import batches as lib
from squeezetime_jax.data import prepare, sources
from squeezetime_jax.data.embedded import motion
from squeezetime_jax.data.transforms import TrainingClip, ViewProtocol
from squeezetime_jax.errors import UserError

CLIP = TrainingClip(num_frames=4, frame_interval=1, short_side=32, size=24)
PROTOCOL = ViewProtocol(
    num_clips=2, num_crops=1, short_side=32, crop_size=24, num_frames=4, frame_interval=1
)

HOST = Path(__file__).with_name("host.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return motion.write_motion_dataset(
        tmp_path_factory.mktemp("data") / "motion", num_train=13, num_test=8, size=32, num_frames=6
    )


@pytest.fixture(scope="module")
def source(folder) -> sources.FileSource:
    return sources.annotation_list(folder / "train.txt", folder, folder / "label_map.txt")


def take(source, number: int, clip=CLIP, **how) -> list[dict[str, np.ndarray]]:
    batches = train_batches(source, clip, **({"batch_size": 4, "seed": 5} | how))
    taken = list(itertools.islice(batches, number))
    batches.close()
    return taken


def assert_same(found, expected) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
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
    draw = functools.partial(draw_clip, source, CLIP)
    order = grain.MapDataset.source([7] * 16)
    sample = lib._training_sample(draw, order, len(source), 5, 15)
    with source[7].open() as video:
        expected = CLIP.cut(video, np.random.default_rng([5, 1, 7]))
    np.testing.assert_array_equal(sample["clips"], expected)
    assert sample["labels"] == source[7].label
    other_epoch = lib._training_sample(draw, order, len(source), 5, 2)
    assert (other_epoch["clips"] != sample["clips"]).any()


def test_each_epoch_shows_each_video_once_in_another_order(source, monkeypatch):
    def identify(draw, order, num_records, seed, position):
        return {"clips": np.zeros(1), "labels": np.int32(order[position]), "bad": []}

    monkeypatch.setattr(lib, "_training_sample", identify)
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


@dataclasses.dataclass(frozen=True)
class Host:
    """What JAX asks of the process that it runs in."""

    index: int
    platform: str = "cpu"

    def process_index(self) -> int:
        return self.index


@dataclasses.dataclass(frozen=True)
class Device:
    """A device of a run on several hosts, as the process `client` sees it."""

    id: int
    process_index: int
    client: Host
    platform: str = "cpu"
    device_kind: str = "made up"


def shardings(processes: list[int]) -> list[jax.NamedSharding]:
    """A batch cut over devices of these processes in this order, as each process sees it."""
    found = []
    for host in range(max(processes) + 1):
        devices = [Device(n, process, Host(host)) for n, process in enumerate(processes)]
        found.append(jax.NamedSharding(jax.sharding.Mesh(np.array(devices), ("data",)), BATCH))
    return found


BATCH = jax.P("data")
# Devices of two hosts in order, one each, and as `jax.make_mesh` orders a slice of four hosts.
MESHES = [[0, 0, 1, 1], [0, 1], [0, 1, 1, 0], [0, 0, 1, 1, 1, 1, 0, 2, 3, 3, 3, 3, 2, 2, 2, 0]]


def test_rows_are_those_of_the_hosts_devices():
    found = [lib.local_rows(sharding, 8).tolist() for sharding in shardings([0, 1, 1, 0])]
    assert found == [[0, 1, 6, 7], [2, 3, 4, 5]]
    slice_of_four = [lib.local_rows(s, 16).tolist() for s in shardings(MESHES[3])]
    assert slice_of_four == [[0, 1, 6, 15], [2, 3, 4, 5], [7, 12, 13, 14], [8, 9, 10, 11]]
    with pytest.raises(UserError, match=r"batch_size: must be a multiple of 4, .*; got 6"):
        lib.local_rows(shardings([0, 1, 1, 0])[0], 6)


@pytest.mark.parametrize("processes", MESHES[:3], ids=str)
def test_a_row_is_the_same_record_on_any_number_of_hosts(source, reference, processes):
    hosts = [lib.local_rows(sharding, 4) for sharding in shardings(processes)]
    shares = [take(source, 2, rows=rows, start_step=1) for rows in hosts]
    for step, whole in enumerate(reference[1:3]):
        for rows, share in zip(hosts, shares, strict=True):
            for name in ("clips", "labels"):
                np.testing.assert_array_equal(share[step][name], whole[name][rows])


def test_two_hosts_make_the_global_arrays_of_one(folder, reference):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = [
        subprocess.Popen(
            [sys.executable, HOST, str(port), "2", str(host), str(folder)],
            env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"},
            stdout=subprocess.PIPE, text=True,
        )
        for host in range(2)
    ]  # fmt: skip
    printed = [process.communicate(timeout=120)[0] for process in running]
    found = [json.loads(lines.splitlines()[-1]) for lines in printed]
    sums = [batch["clips"].sum((1, 2, 3, 4)).tolist() for batch in reference[:4]]
    assert [host["sums"] for host in found] == [sums, sums]


@pytest.mark.slow
def test_shards_give_the_samples_of_the_files(source, folder, reference, tmp_path):
    names = source.class_names
    prepare.prepare(
        prepare.Job(source.videos, folder, tmp_path, "train", form="jpeg", class_names=names),
        processes=1,
    )
    shards = sources.open_source(tmp_path, split="train")
    for found, expected in zip(take(shards, 3), reference, strict=False):
        np.testing.assert_array_equal(found["labels"], expected["labels"])
        assert np.abs(found["clips"].astype(int) - expected["clips"]).mean() < 9  # coded twice


def test_samples_that_wait_are_bounded_in_memory():
    assert lib._samples_ahead(64, 16 * 224 * 224 * 3) == 128
    assert lib._samples_ahead(64, 30 * 16 * 224 * 224 * 3) == 14  # 1 GiB of test views
    assert lib._samples_ahead(1, 1 << 40) == 1


def test_uniform_frames_and_the_centre_crop(source):
    clip = dataclasses.replace(CLIP, frame_interval=None, crop="center")
    assert take(source, 1, clip)[0]["clips"].shape == (4, 4, 24, 24, 3)
    with source[0].open() as video:
        found = clip.cut(video, np.random.default_rng(0))
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
        batches = train_batches(source, CLIP, batch_size=4, seed=5)
        taken = list(itertools.islice(batches, 70))  # two epochs
        batches.close()
    assert list(batches.bad_videos) == ["train/moving_right/00000.mp4"]
    assert len(caplog.records) == 1
    assert "train/moving_right/00000.mp4" in caplog.text
    resumed = train_batches(source, CLIP, batch_size=4, seed=5, start_step=20)
    assert_same(list(itertools.islice(resumed, 50)), taken[20:])
    resumed.close()


def test_three_bad_videos_are_replaced_and_a_fourth_is_an_error(folder, tmp_path):
    three = damaged(folder, tmp_path / "three", 3)
    batches = train_batches(three, CLIP, batch_size=4, seed=5)
    list(itertools.islice(batches, 8))
    assert len(batches.bad_videos) == 3
    batches.close()
    four = damaged(folder, tmp_path / "four", 4)
    batches = train_batches(four, CLIP, batch_size=4, seed=5)
    message = r"4 of 13 videos cannot be read, more than the 3 .*: train/.*mp4.* \| and 1 more$"
    with pytest.raises(UserError, match=message):
        list(itertools.islice(batches, 8))
    batches.close()


def test_nothing_but_bad_videos_is_an_error_at_once(folder, tmp_path):
    source = damaged(folder, tmp_path, 13)
    batches = train_batches(source, CLIP, batch_size=4, seed=5)
    with pytest.raises(UserError, match=r"9 videos in a row cannot be read; .*: train/"):
        next(batches)
    batches.close()


@pytest.mark.parametrize("size", [0, 14])
def test_a_batch_larger_than_the_source_or_empty_is_refused(source, size):
    with pytest.raises(UserError, match=f"batch_size: must be 1 to 13, .*; got {size}"):
        take(source, 1, batch_size=size)


def evaluate(source, **how) -> list[dict[str, np.ndarray]]:
    batches = eval_batches(source, PROTOCOL, **({"batch_size": 4} | how))
    try:
        return list(batches)
    finally:
        batches.close()


@pytest.mark.parametrize("processes", [[0], [0, 1, 1, 0], [0, 1, 2, 3]], ids=str)
def test_evaluation_meets_each_video_once_on_any_number_of_hosts(source, processes):
    hosts = max(processes) + 1
    shares = [evaluate(source, rows=lib.local_rows(s, 4)) for s in shardings(processes)]
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


def test_evaluation_masks_and_names_unreadable_videos(folder, tmp_path):
    source = damaged(folder, tmp_path, 2)
    batches = eval_batches(source, PROTOCOL, batch_size=4)
    masks = np.concatenate([batch["mask"] for batch in batches])
    assert masks.sum() == 11
    batches.close()
    unreadable = dict(sorted(batches.unreadable.items()))
    assert list(unreadable) == ["train/moving_left/00001.mp4", "train/moving_right/00000.mp4"]
    with pytest.raises(
        UserError, match=r"^2 videos cannot be read; repair .*1\.mp4: .* \| .*0\.mp4: "
    ):
        raise lib.unreadable_error(unreadable)


def test_to_devices_makes_global_arrays_ahead_of_their_use(source, reference):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P("data"))
    with lib.to_devices(iter(reference), sharding) as batches, jax.transfer_guard("disallow"):
        on_devices = list(batches)
    assert all(batch["clips"].sharding == sharding for batch in on_devices)
    assert_same(jax.device_get(on_devices), reference)


def test_to_devices_raises_what_reading_raises(reference):
    def failing():
        yield reference[0]
        raise UserError("the disk is gone")

    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with lib.to_devices(failing(), sharding) as batches:
        next(batches)
        with pytest.raises(UserError, match="the disk is gone"):
            next(batches)


def test_to_devices_can_be_left_early(reference):
    taken = []
    endless = (taken.append(k) or reference[k % 8] for k in itertools.count())
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with lib.to_devices(endless, sharding) as batches:
        next(batches)
    assert len(taken) < 8
