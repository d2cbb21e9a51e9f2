"""The motion data set: each class a motion, each frame silent about it."""

import dataclasses
import json

import av
import jax
import numpy as np
import optax
import pytest

from squeezetime_jax.data.embedded import motion, scenes
from squeezetime_jax.errors import UserError

HOW = {"size": 32, "num_frames": 8, "difficulty": 0.3}
NUM_CLASSES = len(motion.CLASSES)


def scene_of(index: int, label: int, difficulty: float = 0.3) -> scenes.Scene:
    rng = np.random.default_rng([7, index])
    return motion.draw_scene(rng, label, size=32, difficulty=difficulty)


def decoded(path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


@pytest.mark.parametrize("label", range(NUM_CLASSES))
def test_reversed_frames_show_the_partner_class(label):
    scene = dataclasses.replace(scene_of(0, label), noise=0.0)
    frames = scenes.render(scene, size=32, num_frames=8)
    reversed_frames = scenes.render(scenes.reverse(scene), size=32, num_frames=8)
    difference = np.abs(frames[::-1].astype(int) - reversed_frames)
    assert difference.mean() < 0.01  # rounding
    assert np.abs(frames.astype(int) - reversed_frames).mean() > 1
    partner = scene_of(0, label ^ 1)
    for shape, other in zip(scenes.reverse(scene).shapes, partner.shapes, strict=True):
        if label < 6:
            assert shape.rate[label // 2] == other.rate[label // 2] != 0
        else:
            assert shape.arc == other.arc != 0


def test_only_rate_and_arc_depend_on_the_class():
    drawn = [scene_of(3, label) for label in range(NUM_CLASSES)]
    for scene in drawn[1:]:
        np.testing.assert_array_equal(scene.background, drawn[0].background)
        np.testing.assert_array_equal(scene.phase, drawn[0].phase)
        np.testing.assert_array_equal(scene.rate, drawn[0].rate)
        for shape, first in zip(scene.shapes, drawn[0].shapes, strict=True):
            np.testing.assert_array_equal(shape.image, first.image)
            np.testing.assert_array_equal(shape.phase, first.phase)


def test_the_middle_of_the_video_is_the_same_picture_in_every_class():
    drawn = [dataclasses.replace(scene_of(5, k), noise=0.0) for k in range(NUM_CLASSES)]
    middles = [scenes.render(scene, size=32, num_frames=9)[4] for scene in drawn]
    for middle in middles[1:]:
        np.testing.assert_array_equal(middle, middles[0])


def path(label: int) -> np.ndarray:
    """Middle (x, y) and area of a white square on black in each frame, moving as the class does."""
    drawn = scene_of(1, label, difficulty=0.0)
    image = np.zeros((48, 48, 4), np.uint8)
    image[16:32, 16:32] = 255
    shape = dataclasses.replace(
        drawn.shapes[0],
        image=image,
        phase=np.array([0.5, 0.5, 0.5, 0.0], np.float32),
        rate=np.sign(drawn.shapes[0].rate) * np.float32(0.3),
        arc=float(np.sign(drawn.shapes[0].arc) * 0.9),
    )
    black = np.zeros((128, 128, 3), np.uint8)
    scene = dataclasses.replace(drawn, background=black, shapes=(shape,), noise=0.0)
    light = scenes.render(scene, size=64, num_frames=9)[..., 0].astype(float)
    rows, columns = np.indices((64, 64))
    area = light.sum((1, 2))
    x, y = (columns * light).sum((1, 2)) / area, (rows * light).sum((1, 2)) / area
    return np.stack([x, y, area], 1)


def test_each_class_moves_as_its_name_says():
    paths = [path(label) for label in range(NUM_CLASSES)]
    moved = [p[-1, :2] - p[0, :2] for p in paths]
    way = 64 * 0.3 * 8 / 9
    straight = [[way, 0], [-way, 0], [0, way], [0, -way], [0, 0], [0, 0]]
    np.testing.assert_allclose(moved[:6], straight, atol=0.5)
    growth = [p[-1, 2] / p[0, 2] for p in paths]
    assert growth[4] > 1.2
    assert growth[5] < 0.8
    np.testing.assert_allclose(np.array(growth)[[0, 1, 2, 3, 6, 7]], 1, atol=0.1)
    for label, down in ((6, 1), (7, -1)):
        steps = np.diff(paths[label][:, :2], axis=0)
        np.testing.assert_allclose(np.hypot(*steps.T), 0.9 * 64 / 9, atol=0.7)
        assert steps[0, 0] > 4  # to the right at first
        assert down * steps[4, 1] > 4  # the screen's y points down
        assert steps[-1, 0] < -4  # to the left at last


def test_difficulty_zero_keeps_everything_else_still():
    scene = scene_of(2, 0, difficulty=0.0)
    assert not scene.rate.any()
    assert scene.noise == 0
    for shape in scene.shapes:
        assert shape.rate[0] > 0
        assert not shape.rate[1:].any()
        assert not shape.arc


def single_frames(split: str, number: int, folder) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decoded videos as floats around zero, labels, and one random frame of each."""
    rng = np.random.default_rng(0)
    videos = []
    for index in range(number):
        frames, _ = motion.motion_video(seed=11, split=split, index=index, **HOW)
        scenes.encode(folder / "video.mp4", frames)
        videos.append(decoded(folder / "video.mp4"))
    videos = np.stack(videos).astype(np.float32) / 128 - 1
    labels = np.arange(number) % NUM_CLASSES
    return videos, labels, videos[np.arange(number), rng.integers(HOW["num_frames"], size=number)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    return single_frames("train", 384, folder), single_frames("test", 256, folder)


def bound(num_test: int) -> float:
    """Five standard deviations above a guesser's mean accuracy."""
    chance = 1 / NUM_CLASSES
    return chance + 5 * (chance * (1 - chance) / num_test) ** 0.5


@pytest.mark.slow
def test_a_linear_probe_of_single_frames_stays_at_chance(tmp_path):
    _, labels, frames = single_frames("train", 192, tmp_path)
    _, test_labels, test_frames = single_frames("test", 128, tmp_path)
    x, test_x = (np.float64(f.reshape(len(f), -1)) for f in (frames, test_frames))
    targets = np.eye(NUM_CLASSES)[labels] - 1 / NUM_CLASSES
    for ridge in (10.0, 1000.0):
        weights = np.linalg.solve(x @ x.T + ridge * np.eye(len(x)), targets)
        accuracy = np.mean((test_x @ (x.T @ weights)).argmax(1) == test_labels)
        assert accuracy < bound(128)


def conv_probe_accuracy(images, labels, test_images, test_labels) -> float:
    """Test accuracy of a small convolutional network trained on images (n, h, w, c)."""
    keys = jax.random.split(jax.random.key(0), 3)
    widths = [images.shape[-1], 16, 32]
    params = [
        jax.random.normal(keys[i], (5, 5, widths[i], widths[i + 1])) * (12.5 * widths[i]) ** -0.5
        for i in range(2)
    ] + [0.1 * jax.random.normal(keys[2], (32, NUM_CLASSES))]

    def logits(params, x):
        for kernel in params[:2]:
            x = jax.nn.relu(
                jax.lax.conv_general_dilated(
                    x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
            )
        return x.mean((1, 2)) @ params[2]

    def loss(params, x, y):
        return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y).mean()

    optimiser = optax.adam(3e-3)

    @jax.jit
    def step(params, state, x, y):
        updates, state = optimiser.update(jax.grad(loss)(params, x, y), state)
        return optax.apply_updates(params, updates), state

    rng, state = np.random.default_rng(0), optimiser.init(params)
    for _ in range(12):
        for where in rng.permutation(len(images)).reshape(-1, 64):
            params, state = step(params, state, images[where], labels[where])
    return float(np.mean(np.argmax(jax.jit(logits)(params, test_images), 1) == test_labels))


@pytest.mark.slow
def test_a_conv_probe_of_single_frames_stays_at_chance(videos):
    (_, labels, frames), (_, test_labels, test_frames) = videos
    assert conv_probe_accuracy(frames, labels, test_frames, test_labels) < bound(256)


@pytest.mark.slow
def test_the_same_conv_probe_of_all_frames_sees_the_motion(videos):
    (clips, labels, _), (test_clips, test_labels, _) = videos
    squeezed, test_squeezed = (
        np.moveaxis(c, 1, 3).reshape(len(c), 32, 32, -1) for c in (clips, test_clips)
    )
    accuracy = conv_probe_accuracy(squeezed, labels, test_squeezed, test_labels)
    assert accuracy > 2 * bound(256)


def test_the_data_set_on_disk(tmp_path):
    folder = motion.write_motion_dataset(
        tmp_path / "motion", num_train=9, num_test=8, seed=3, size=32, num_frames=6
    )
    train = (folder / "train.txt").read_text().splitlines()
    test = (folder / "test.txt").read_text().splitlines()
    assert [int(line.rsplit(" ", 1)[1]) for line in train] == [*range(8), 0]
    assert (len(train), len(test)) == (9, 8)
    assert (folder / "label_map.txt").read_text().splitlines() == list(motion.CLASSES)
    for line in train + test:
        frames = decoded(folder / line.rsplit(" ", 1)[0])
        assert frames.shape == (6, 32, 32, 3)
    with av.open(str(folder / train[0].rsplit(" ", 1)[0])) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert all(packet.is_keyframe for packet in container.demux(video=0) if packet.size)
    expected, _ = motion.motion_video(
        seed=3, split="train", index=8, size=32, num_frames=6, difficulty=0.3
    )
    found = decoded(folder / train[8].rsplit(" ", 1)[0])
    # Half the colour resolution is lost in coding, brightness hardly changes.
    assert np.abs(found.mean(-1) - expected.mean(-1)).mean() < 6


def test_seeds_and_splits_share_nothing():
    first = motion.motion_video(seed=0, split="train", index=0, **HOW)[0]
    for seed, split in ((1, "train"), (0, "test")):
        other = motion.motion_video(seed=seed, split=split, index=0, **HOW)[0]
        assert np.abs(first.astype(int) - other).mean() > 5
    again = motion.motion_video(seed=0, split="train", index=0, **HOW)[0]
    np.testing.assert_array_equal(first, again)


def test_a_complete_folder_is_reused_and_an_incomplete_one_taken_up(tmp_path):
    how = {"num_train": 8, "num_test": 8, "size": 32, "num_frames": 4}
    folder = motion.write_motion_dataset(tmp_path / "motion", **how)
    files = sorted(folder.rglob("*.mp4"))
    before = {f: (f.read_bytes(), f.stat().st_mtime_ns) for f in files}
    motion.write_motion_dataset(folder, **how)
    assert before == {f: (f.read_bytes(), f.stat().st_mtime_ns) for f in files}

    marker = json.loads((folder / "motion.json").read_text())
    (folder / "motion.json").write_text(json.dumps(marker | {"complete": False}))
    files[0].unlink()
    motion.write_motion_dataset(folder, **how)
    assert files[0].read_bytes() == before[files[0]][0]
    assert files[1].stat().st_mtime_ns == before[files[1]][1]


def test_another_data_set_is_not_overwritten(tmp_path):
    how = {"num_train": 1, "num_test": 1, "size": 32, "num_frames": 4}
    folder = motion.write_motion_dataset(tmp_path / "motion", **how)
    with pytest.raises(UserError, match="made with seed=0, expected seed=1; choose another"):
        motion.write_motion_dataset(folder, **how, seed=1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"other: not empty, and not a motion data set"):
        motion.write_motion_dataset(tmp_path / "other", **how)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("size", 33), ("size", 22), ("num_frames", 1), ("difficulty", 1.5), ("num_train", 0)],
)
def test_arguments_out_of_range_are_named(tmp_path, argument, value):
    how = {"num_train": 1, "num_test": 1, argument: value}
    with pytest.raises(UserError, match=f"{argument} must be .*, got {value}"):
        motion.write_motion_dataset(tmp_path / "motion", **how)
