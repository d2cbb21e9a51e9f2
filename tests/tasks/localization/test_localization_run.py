"""A small run from its config to its pictures."""

import itertools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from matplotlib.figure import Figure
from small_localizer import SET, batch, fields, run_fields, task

from squeezetime_jax import SqueezeTime, cli
from squeezetime_jax.checkpoint.store import save_model
from squeezetime_jax.data.batches import UnreadableRecord
from squeezetime_jax.data.embedded import untrimmed
from squeezetime_jax.data.embedded.untrimmed import Untrimmed
from squeezetime_jax.errors import UserError
from squeezetime_jax.model.config import SqueezeTimeConfig
from squeezetime_jax.tasks.localization import localize
from squeezetime_jax.tasks.localization.annotations import read_annotations
from squeezetime_jax.tasks.localization.metric import TemporalMap
from squeezetime_jax.tasks.localization.model import load_localizer
from squeezetime_jax.tasks.localization.task import Localization, TestVideos
from squeezetime_jax.training import config, runner
from squeezetime_jax.training.report import Reporter, read_metrics


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedded data set that all runs share."""
    folder = tmp_path_factory.mktemp("data") / "untrimmed"
    return untrimmed.write_untrimmed(folder, Untrimmed(**SET))


@pytest.fixture(scope="module")
def whole(data: Path) -> Path:
    """The folder of a run that nothing disturbed."""
    workdir = data.parent / "run"
    runner.train(run_fields(data), workdir, Reporter())
    return workdir


def arrays_of(workdir: Path) -> dict[str, bytes]:
    """Every array of the last checkpoint, byte for byte."""
    last = max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    found = {}
    for item in ("params", "batch_stats", "training"):
        with ocp.StandardCheckpointer() as checkpointer:
            tree = checkpointer.restore(last / item)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            found[item + jax.tree_util.keystr(path)] = np.asarray(leaf).tobytes()
    return found


@pytest.mark.slow
def test_a_run_that_stops_continues_to_the_bit(data: Path, whole: Path, tmp_path: Path) -> None:
    class Stop(Reporter):
        def evaluation(self, step, scores):
            raise KeyboardInterrupt

    workdir = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        runner.train(run_fields(data), workdir, Stop())
    assert len(read_metrics(workdir)) < len(read_metrics(whole))
    runner.train(run_fields(data), workdir, Reporter())
    mine, other = arrays_of(workdir), arrays_of(whole)
    assert [name for name in other if mine[name] != other[name]] == []
    assert read_metrics(workdir)[-1] == read_metrics(whole)[-1]


def test_a_run_evaluates_on_the_way_and_its_checkpoint_gives_the_same(
    data: Path,
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores = [row for row in read_metrics(whole) if row["kind"] == "eval"]
    assert len(scores) == 2
    assert scores[-1]["average"] > 0.01
    figures: list[Figure] = []
    save = "squeezetime_jax.evaluation.pictures.save_figure"
    monkeypatch.setattr(save, lambda figure, path: figures.append(figure) or path)
    found = tmp_path / "found.json"
    for as_json in (False, True):
        arguments = {"as_json": as_json, "scores": found, "save": tmp_path / "classes.png"}
        runner.evaluate(run_fields(data), str(whole), **arguments)
    printed, summary = capsys.readouterr().out.strip().rsplit("\n", 1)
    summary = json.loads(summary)
    assert summary["average"] == pytest.approx(scores[-1]["average"], abs=1e-6)
    per_threshold = {f"mAP@{t}": value for t, value in summary["per_threshold"].items()}
    assert per_threshold == pytest.approx({k: scores[-1][k] for k in per_threshold}, abs=1e-6)
    cost = summary["cost"]
    assert (cost["videos"], cost["clips_unshared"]) == (2, 8 * cost["windows"])
    assert cost["clips"] <= cost["clips_unshared"]
    parts = cost["seconds_per_video"]
    assert set(parts) == {"decoding", "backbone", "head", "post-processing", "all"}
    assert parts["all"] == pytest.approx(sum(v for name, v in parts.items() if name != "all"))
    assert f"videos: 2, windows: {cost['windows']}, " in printed
    assert figures[0].axes[0].get_title().endswith(f"average {100 * summary['average']:.2f}")
    names = {"video_test_0000000", "video_test_0000001"}
    assert json.loads(found.read_text())["results"].keys() == names
    words = ["--ground-truth", str(data / "thumos_gt.json"), "--detections", str(found)]
    assert cli.main(["temporal-map", *words, "--tiou", "0.1,0.2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["average"] == summary["average"]


def test_the_figure_shows_every_average_precision() -> None:
    result = TemporalMap((0.3, 0.5), ("dive", "jump"), np.array([[1.0, 0.5], [0.25, 0.0]]))
    axes, _ = result.figure().axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["dive", "jump", "mean"]
    values = [text.get_text() for text in axes.texts]
    assert values == ["100.0", "50.0", "25.0", "0.0", "62.5", "25.0"]
    assert axes.get_title() == "average precision, %; average 43.75"


def test_localize_prints_a_table_json_and_a_timeline(
    data: Path,
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    figures: list[Figure] = []
    draw = localize.draw_timeline
    monkeypatch.setattr(
        localize, "draw_timeline", lambda *args: figures.append(draw(*args)) or figures[-1]
    )
    video = str(data / "videos" / "video_test_0000000.mp4")
    words = ["localize", video, "--checkpoint", str(whole)]
    assert cli.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["results"]["video_test_0000000"]
    assert len(found) > 3
    assert set(found[0]) == {"label", "score", "segment"}
    picture = tmp_path / "timeline.png"
    assert cli.main([*words, "--top", "3", "--save", str(picture)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 4
    best = sorted(found, key=lambda each: -each["score"])[:3]
    rows = sorted([*each["segment"], 100 * each["score"]] for each in best)
    shown = [[float(word) for word in line.split()[:3]] for line in table[1:]]
    np.testing.assert_allclose(shown, rows, atol=0.051)
    below = figures[0].axes[-1]
    bars = sorted([bar.get_x(), bar.get_x() + bar.get_width()] for bar in below.patches)
    np.testing.assert_allclose(bars, [row[:2] for row in rows])
    frames = [image.get_extent() for image in figures[0].axes[0].images]
    assert len(frames) == 16  # side by side along the axis of the timeline
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(frames))
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_overlapping_segments_of_a_class_are_in_rows_of_their_own() -> None:
    segments = [(10, 22), (12, 30), (25, 40), (70, 71)]
    found = [{"label": "dive", "segment": list(each)} for each in segments]
    found.append({"label": "jump", "segment": [11, 12]})
    rows = localize.lanes(found, "dive")
    assert [[each["segment"][0] for each in row] for row in rows] == [[10, 25, 70], [12]]


def test_a_run_that_is_frozen_moves_the_rest(data: Path, whole: Path) -> None:
    trained = load_localizer(whole).model
    fresh = Localization(config.parse(run_fields(data)), data)
    before = fresh.network.merge(*fresh.init())
    for (path, one), (_, other) in zip(
        nnx.to_flat_state(nnx.state(before)), nnx.to_flat_state(nnx.state(trained)), strict=True
    ):
        moved = bool((jnp.asarray(one[...]) != jnp.asarray(other[...])).any())
        is_norm = path[0] == "backbone" and any(str(part).startswith("norm") for part in path)
        assert moved != is_norm, path


def test_what_is_frozen_is_as_the_experiment_says() -> None:
    def trained(**freeze: object) -> set[str]:
        small = task(**freeze)
        params, _ = small.network.abstract()
        paths = [
            [str(key.key) for key in path]
            for path, _ in jax.tree_util.tree_leaves_with_path(params)
        ]
        return {".".join(path) for path in paths if small.trains(path)}

    everything = trained(freeze__norm="statistics")
    assert everything == trained(freeze__norm="nothing")
    fixed = everything - trained()
    assert "backbone.stem.norm.scale" in fixed
    assert len(fixed) > 20
    assert all(name.startswith("backbone.") for name in fixed)
    assert not any("conv.kernel" in name for name in fixed)
    head = trained(freeze__backbone=True)
    assert head == {name for name in everything if name.startswith("head.")}


def test_the_backbone_starts_from_a_recogniser(tmp_path: Path) -> None:
    model = config.parse(fields()).model
    source = SqueezeTime(SqueezeTimeConfig.tiny(num_classes=7, branches="conv3x3",
                         position_grids=model.position_grids), nnx.Rngs(5))  # fmt: skip
    save_model(tmp_path / "weights", source)
    params, _ = task(init=str(tmp_path / "weights")).init()
    mine = np.asarray(params["backbone"]["stem"]["conv"]["kernel"])
    assert (mine == np.asarray(source.stem.conv.kernel[...])).all()


@pytest.mark.slow
def test_any_number_of_devices_gives_the_same_losses() -> None:
    program = Path(__file__).with_name("small_localizer.py")
    # In double precision: Adam's first steps have the same size however small a gradient is, and
    # so enlarge its last digits.
    settings = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8", "JAX_ENABLE_X64": "1"}
    done = subprocess.run(
        [sys.executable, str(program), "losses", "3", "1,8"],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["devices"] for each in found] == [1, 8]
    assert found[1]["losses"] == pytest.approx(found[0]["losses"], abs=1e-5)
    assert found[0]["losses"][-1] < found[0]["losses"][0]


@pytest.mark.slow
def test_two_hosts_share_the_test_videos_and_score_as_one(
    data: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = Path(__file__).with_name("small_localizer.py")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    hosts = [
        subprocess.Popen(
            [sys.executable, str(program), "evaluate", data, whole, address, str(host)],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for host in range(2)
    ]
    outputs = [host.communicate(timeout=300)[0].splitlines() for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0]
    read = [[line for line in lines if line.startswith("video_test")] for lines in outputs]
    assert read == [["video_test_0000000"], ["video_test_0000001"]]
    (summary,) = [json.loads(line) for line in outputs[0] if line.startswith("{")]
    runner.evaluate(run_fields(data), str(whole), as_json=True)
    alone = json.loads(capsys.readouterr().out)
    assert summary["average"] == pytest.approx(alone["average"], abs=1e-9)
    assert summary["cost"]["windows"] == alone["cost"]["windows"]


# Records.


def test_a_training_record_is_a_window_with_its_instances(data: Path) -> None:
    small = Localization(config.parse(run_fields(data)), data.parent)
    records = small.training_set()
    assert records.labels == list(untrimmed.motion.CLASSES)
    assert len(records) > 4
    rng = np.random.default_rng(0)
    for number in range(len(records)):
        sample = records.read(number, rng)
        assert {name: (x.shape, x.dtype) for name, x in sample.items()} == {
            name: (x.shape[1:], x.dtype) for name, x in small.abstract_batch().items()
        }
        count = int((sample["classes"] > 0).sum())
        assert 0 < count == np.count_nonzero(sample["segments"].sum(axis=1))
        assert (sample["segments"][:count, 0] < sample["segments"][:count, 1]).all()
        assert sample["segments"].max() <= 32
    frames, others = (records.read(number, rng)["frames"] for number in (0, 1))
    assert (frames[4:] == others[:-4]).all()  # the next window starts 4 frames later


def test_the_annotations_classes_are_those_of_the_checkpoint_by_name(data: Path) -> None:
    small = Localization(config.parse(run_fields(data)), data)
    names = read_annotations(small.data.annotations, "test").class_names
    mixed = [name.upper() for name in reversed(names)]
    assert TestVideos(small.experiment, small.data, mixed).contents()[1] == list(reversed(names))
    with pytest.raises(UserError, match=f"1 class not in the checkpoint: '{names[0]}'"):
        TestVideos(small.experiment, small.data, list(names[1:]))


def test_a_test_video_that_cannot_be_read_is_named(data: Path, tmp_path: Path) -> None:
    changed = run_fields(data, data__videos=str(tmp_path), data__arrays=str(tmp_path))
    small = Localization(config.parse(changed), tmp_path)
    sample = TestVideos(small.experiment, small.data).read(0)
    with pytest.raises(UnreadableRecord, match="video_test_0000000 not found"):
        next(sample["frames"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data__max_instances": 0}, "data.max_instances must be at least 1, got 0"),
        ({"model__num_classes": 3}, "model.num_classes is 3, but the annotations have 8 classes"),
        ({"batch_size": 900}, "900"),
        ({"optimizer__accumulation": 2}, "optimizer.accumulation must be 1"),
        ({"window__padding": (3, 1)}, r"window.padding is \(3, 1\), but .* need 0 frames"),
        ({"evaluation__thresholds": (0.0,)}, r"evaluation.thresholds must be .* \(0.0,\)"),
        ({"data__annotations": "nowhere"}, "nowhere.*cannot be read as text"),
    ],
)
def test_invalid_experiments_are_refused_in_one_line(
    data: Path, tmp_path: Path, change: dict, message: str
) -> None:
    found = run_fields(data)
    for path, value in change.items():
        section, _, name = path.rpartition("__")
        (found[section] if section else found)[name] = value
    with pytest.raises(UserError, match=message) as raised:
        runner.train(found, tmp_path / "run", Reporter())
    assert "\n" not in str(raised.value)


def test_a_crowded_window_is_named(data: Path, tmp_path: Path) -> None:
    """Two instances in one window, in a file of this form, and room for one."""
    (tmp_path / "Class Index_Detection.txt").write_text("".join(f"{k} c{k}\n" for k in range(8)))
    (tmp_path / "val_video_info.csv").write_text(
        "video,fps,sample_fps,count,sample_count\nv,20.0,10.0,64,32\n"
    )
    (tmp_path / "val_Annotation_ours.csv").write_text(
        "video,type,type_idx,start,end,startFrame,endFrame\n"
        "v,c1,1,0.5,1,10,20\nv,c2,2,1.5,2,30,40\n"
    )
    changes = {"data__annotations": str(tmp_path), "data__max_instances": 1}
    small = Localization(config.parse(run_fields(data, **changes)), tmp_path)
    with pytest.raises(UserError, match="the window of v from frame 0 has 2 instances; increase"):
        small.training_set()


def test_a_recogniser_is_not_a_localiser(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path / "weights", SqueezeTime(SqueezeTimeConfig.tiny(), nnx.Rngs(0)))
    video = tmp_path / "v.mp4"
    assert cli.main(["localize", str(video), "--checkpoint", str(tmp_path / "weights")]) == 1
    assert f"{video}: no such file" in capsys.readouterr().err
    video.write_bytes(b"nothing")
    assert cli.main(["localize", str(video), "--checkpoint", str(tmp_path / "weights")]) == 1
    assert "expected a network for localization" in capsys.readouterr().err


# What happens to a batch on the devices.


def prepared_batch(size: int = 3, **changes: object) -> tuple[dict, dict]:
    small = task(batch_size=size, **changes)
    arrays = batch(0, size)
    arrays["frames"][:, 10:] = 0
    arrays["num_frames"][:] = 10
    on_device = {k: jnp.asarray(v) for k, v in arrays.items()}
    return arrays, small.prepare(jax.random.key(1), on_device, jnp.arange(size))


def test_a_window_is_cropped_and_mirrored_as_a_whole() -> None:
    arrays, prepared = prepared_batch(size=12)
    frames = np.asarray(prepared["frames"])
    flips, corners = set(), set()
    for pixels, found in zip(arrays["frames"], frames, strict=True):
        matches = [
            (top, left, flip)
            for top in range(5)
            for left in range(5)
            for flip in (1, -1)
            if np.allclose(
                pixels[:, top : top + 32, left : left + 32][:, :, ::flip] / 127.5 - 1,
                found,
                atol=1e-5,
            )
        ]
        assert len(matches) == 1
        corners.add(matches[0][:2])
        flips.add(matches[0][2])
    assert flips == {1, -1}
    assert len(corners) > 6


def test_short_windows_end_black_as_in_the_reference_or_grey() -> None:
    _, prepared = prepared_batch()
    assert (np.asarray(prepared["frames"][:, 10:]) == -1).all()
    changes = {"window__short_padding": "grey", "data__flip": 0.0, "data__random_crop": False}
    arrays, prepared = prepared_batch(**changes)
    assert (np.asarray(prepared["frames"][:, 10:]) == 0).all()
    middle = arrays["frames"][:, :10, 2:34, 2:34] / 127.5 - 1
    np.testing.assert_allclose(prepared["frames"][:, :10], middle, atol=1e-5)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections' own
def test_the_shipped_configs_are_the_references_recipe_and_a_small_one() -> None:
    paper, demo = (
        config.parse(config.read([f"--config=thumos14:{v}"])) for v in ("thumos14", "demo")
    )
    assert (paper.epochs, paper.batch_size, paper.seed) == (16, 1, 2020)
    assert (paper.window.num_frames, paper.window.num_clips, paper.window.crop_side) == (
        256,
        32,
        96,
    )
    assert (paper.optimizer.method, paper.optimizer.learning_rate) == ("adam", 1e-5)
    assert (paper.optimizer.weight_decay, paper.optimizer.schedule) == (1e-3, "steps")
    assert (paper.data.stride, paper.inference.stride) == (30, 128)
    assert paper.evaluation.thresholds == (0.3, 0.4, 0.5, 0.6, 0.7)
    assert (paper.published.average, paper.published.source) == (0.327, "paper, Table 11")
    assert (demo.data.annotations, demo.model.num_classes, demo.head.channels) == (
        "untrimmed",
        8,
        128,
    )
