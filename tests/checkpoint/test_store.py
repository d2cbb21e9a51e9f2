import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import squeezetime_jax as st
from squeezetime_jax import SqueezeTime, SqueezeTimeConfig, cli
from squeezetime_jax.checkpoint.archive import CheckpointError
from squeezetime_jax.checkpoint.convert import to_state_dict, to_torch_file
from squeezetime_jax.checkpoint.run import RunCheckpoints
from squeezetime_jax.checkpoint.store import (
    Meta,
    convert_checkpoint,
    find_step,
    load_model,
    read_labels,
    read_meta,
    save_model,
    weights_of,
)
from squeezetime_jax.checkpoint.torch_file import write_torch_file
from squeezetime_jax.checkpoint.torch_names import rows
from squeezetime_jax.model.abstract import abstract_model, flat_leaves

TINY = SqueezeTimeConfig.tiny(num_classes=3, pooling="max", dtype="bfloat16", bn_group_size=None)
LABELS = ["left", "right", "röll"]


def make_model(config: SqueezeTimeConfig = TINY) -> SqueezeTime:
    """A network with distinct values everywhere."""
    random = np.random.default_rng(0)
    names = released_shapes(config)
    return st.from_state_dict(
        {name: random.uniform(0.1, 1, shape).astype(np.float32) for name, shape in names.items()},
        **{"pooling": config.pooling, "dtype": config.dtype, "bn_group_size": config.bn_group_size},
    )


def released_shapes(config: SqueezeTimeConfig) -> dict[str, tuple[int, ...]]:
    leaves = flat_leaves(abstract_model(config))
    table = [row for row in rows(config, leaves) if row.order is not None]
    return {row.name: row.released_shape(leaves[row.path].shape) for row in table}


@pytest.fixture(scope="module")
def model() -> SqueezeTime:
    return make_model()


@pytest.fixture(scope="module")
def saved(model: SqueezeTime, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "weights"
    save_model(path, model, labels=LABELS)
    return path


def assert_same(a: SqueezeTime, b: SqueezeTime) -> None:
    assert a.config == b.config
    ours, theirs = flat_leaves(a), flat_leaves(b)
    assert list(ours) == list(theirs)
    for path in ours:
        assert ours[path].dtype == theirs[path].dtype
        np.testing.assert_array_equal(ours[path][...], theirs[path][...], err_msg=path)


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        st.load(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


def test_there_and_back(model: SqueezeTime, saved: Path) -> None:
    found = st.load(saved)
    assert_same(found, model)
    assert found.stem.norm.use_running_average
    meta = read_meta(saved)
    assert (meta.config, meta.labels) == (TINY, LABELS)


@pytest.mark.usefixtures("float64")
def test_double_precision_survives(tmp_path: Path) -> None:
    config = SqueezeTimeConfig.tiny(dtype="float64")
    model = make_model(config)
    model.stem.norm.mean[...] = model.stem.norm.mean[...] / 3
    save_model(tmp_path / "a", model)
    assert_same(load_model(tmp_path / "a"), model)
    assert load_model(tmp_path / "a").stem.norm.mean.dtype == np.float64


def test_a_run_gives_its_newest_step(saved: Path, tmp_path: Path) -> None:
    for step in ("2", "10"):
        shutil.copytree(saved / "0", tmp_path / "run" / "checkpoints" / step)
    (tmp_path / "run" / "checkpoints" / "11.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "run" / "checkpoints" / "12").mkdir()  # begun, with nothing in it yet
    for path in (tmp_path / "run", tmp_path / "run" / "checkpoints"):
        assert find_step(path).name == "10"
    assert find_step(tmp_path / "run" / "checkpoints" / "2").name == "2"
    assert read_meta(tmp_path / "run").labels == LABELS


def test_what_is_no_checkpoint_is_refused(saved: Path, tmp_path: Path) -> None:
    assert "a directory without a checkpoint in it" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "nothing")
    shutil.copytree(saved, tmp_path / "a")
    (tmp_path / "a" / "0" / "meta" / "metadata").write_text('{"config": {"depth": 3}}')
    assert "damaged" in refusal(tmp_path / "a")
    (tmp_path / "b" / "archive").mkdir(parents=True)
    (tmp_path / "b" / "archive" / "data.pkl").touch()
    assert "an unpacked .pth" in refusal(tmp_path / "b")


def test_damaged_arrays_are_refused(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "a")
    for file in (tmp_path / "a" / "0" / "params").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[:10])
    assert "damaged" in refusal(tmp_path / "a")


def test_arrays_of_another_shape_are_refused(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "a")
    meta = tmp_path / "a" / "0" / "meta" / "metadata"
    meta.write_text(meta.read_text().replace('"num_frames": 4', '"num_frames": 8'))
    assert "stem.conv.kernel has shape (5, 5, 12, 8), expected (5, 5, 24, 8)" in refusal(
        tmp_path / "a"
    )


def test_nothing_is_overwritten(model: SqueezeTime, saved: Path, tmp_path: Path) -> None:
    for path in (saved, saved / "0" / "meta" / "metadata"):
        with pytest.raises(CheckpointError, match="exists already"):
            save_model(path, model)
    with pytest.raises(CheckpointError, match="2 labels for 3 classes"):
        save_model(tmp_path / "a", model, labels=["a", "b"])
    assert not (tmp_path / "a").exists()


def test_adaptation_of_our_own(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = st.load(saved, num_classes=7, num_frames=8)
    assert "a new head of (7, 64) drawn" in caplog.text
    assert found.config.pooling == "max"
    assert found.stem.conv.kernel.shape == (5, 5, 24, 8)


def test_the_command_converts_both_ways(
    model: SqueezeTime, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    released, ours, back = (str(tmp_path / name) for name in ("a.pth", "ours", "back/a.pth"))
    (tmp_path / "back").mkdir()
    to_torch_file(released, model, labels=LABELS)
    assert cli.main(["convert", released, ours]) == 0
    printed = capsys.readouterr().out
    assert "squeezetime, 4 frames, 10 layers, width 0.125" in printed
    assert "missing         0" in printed
    assert f"wrote {ours}" in printed
    assert cli.main(["convert", ours, back]) == 0
    assert Path(back).read_bytes() == Path(released).read_bytes()
    assert read_labels(ours) == read_labels(back) == LABELS
    assert_same(st.load(ours), model)

    assert cli.main(["convert", released, ours]) == 1
    assert "exists already" in capsys.readouterr().err
    small = str(tmp_path / "small")
    assert cli.main(["convert", released, small, "--num-classes", "2", "--num-frames", "1"]) == 0
    assert (read_meta(small).config.num_classes, read_meta(small).labels) == (2, None)


def test_a_target_named_as_another_file_is_refused(model: SqueezeTime, tmp_path: Path) -> None:
    released = tmp_path / "a.pth"
    to_torch_file(released, model)
    with pytest.raises(CheckpointError, match=r"copy\.txt: expected a path that ends in \.pth"):
        convert_checkpoint(released, tmp_path / "copy.txt")
    assert not (tmp_path / "copy.txt").exists()


def test_the_command_allows_by_pattern(model: SqueezeTime, tmp_path: Path) -> None:
    path = str(tmp_path / "a.pth")
    extra = to_state_dict(model) | {"ema.decay": np.zeros(2, np.float32)}
    write_torch_file(path, extra)
    assert cli.main(["convert", path, str(tmp_path / "b.pth")]) == 1
    assert cli.main(["convert", path, str(tmp_path / "b.pth"), "--allow", r"^ema\."]) == 0


@pytest.mark.parametrize("is_run", [False, True])
def test_a_network_without_batch_norm_is_saved_and_read(is_run: bool, tmp_path: Path) -> None:
    """It has no statistics, and Orbax writes no empty trees."""
    sizes = {"width": 8, "num_blocks": 1, "num_heads": 2, "num_classes": 3}
    model = st.create("timesformer_base", **sizes)
    if is_run:
        items = weights_of(model)
        assert items["batch_stats"] == {}
        run = RunCheckpoints(tmp_path, Meta(model.config, None))
        run.save(1, items, {"seed": 5})
        run.wait()
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), items)
        found = run.restore(like)
        assert found is not None
        step, trees, progress = found
        assert (step, progress, trees["batch_stats"]) == (1, {"seed": 5}, {})
        for a, b in zip(jax.tree.leaves(trees), jax.tree.leaves(items), strict=True):
            np.testing.assert_array_equal(a, b)
        run.close()
    else:
        save_model(tmp_path, model)
    assert_same(load_model(tmp_path), model)
