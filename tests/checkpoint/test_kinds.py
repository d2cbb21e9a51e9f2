"""Released files of any network of the register: recognised, read and written."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import squeezetime_jax as st
from squeezetime_jax.checkpoint import kinds
from squeezetime_jax.checkpoint.archive import CheckpointError
from squeezetime_jax.checkpoint.convert import from_torch_file, to_state_dict, to_torch_file
from squeezetime_jax.checkpoint.torch_file import write_torch_file
from squeezetime_jax.errors import UserError
from squeezetime_jax.model.abstract import flat_leaves
from squeezetime_jax.peers import registry

OTHERS = [name for name in registry.names() if name != "squeezetime"]
CLASSES = 7
StateDict = dict[str, np.ndarray]


def draw(kind: kinds.Kind[Any], config: Any) -> StateDict:
    """A state dict of a network: distinct weights, counters as PyTorch has them."""
    rng = np.random.default_rng(0)
    leaves = flat_leaves(kind.abstract(config))
    state_dict = {}
    for row in kind.rows(config, leaves):
        if row.order is not None:
            shape = row.released_shape(leaves[row.path].shape)
            state_dict[row.name] = rng.uniform(0.1, 1, shape).astype(np.float32)
        else:
            state_dict[row.name] = np.zeros((), np.int64) if row.constant is None else row.constant
    return state_dict


def shapes(name: str, spelling: int = 0) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a released file of a network with 7 classes."""
    kind = kinds.kinds_of(name)[spelling]
    config = registry.configure(name, num_classes=CLASSES)
    leaves = flat_leaves(kind.abstract(config))
    return {
        row.name: row.released_shape(leaves[row.path].shape)
        for row in kind.rows(config, leaves)
        if row.order is not None
    }


# Networks whose weights have the same names and shapes.
TWINS = (
    {"tsn_r34", "c2d_r34"},
    {"tsn_r50", "c2d_r50"},
    {"x3d_xs", "x3d_s", "x3d_m"},
    {"mvitv2_small", "mvitv2_small_16x4"},
    {"videoswin_tiny", "videoswin_tiny_32x2"},
)
# Of each kind one in the default lane.
QUICK = [("i3d_r18", 0), ("c2d_r34", 0), ("x3d_xs", 1), ("slowfast_r18", 0)]
SPELLINGS = [
    pytest.param(name, k, marks=[] if (name, k) in QUICK else pytest.mark.slow)
    for name in OTHERS
    for k in range(len(kinds.kinds_of(name)))
]


@pytest.mark.parametrize(("name", "spelling"), SPELLINGS)
def test_every_spelling_of_every_network_is_recognised(name: str, spelling: int) -> None:
    entries = {f"module.{key}": shape for key, shape in shapes(name, spelling).items()}
    twins = next((group for group in TWINS if name in group), {name})
    if len(twins) > 1:
        with pytest.raises(UserError, match="choose one") as refusal:
            kinds.recognise(entries)
        assert all(twin in str(refusal.value) for twin in twins)
    kind = kinds.recognise(entries, name if len(twins) > 1 else None)
    assert kind == kinds.kinds_of(name)[spelling]
    config = kind.infer({kind.bare(key): shape for key, shape in entries.items()})
    assert config == registry.configure(name, num_classes=CLASSES)


@pytest.fixture(scope="module")
def tsm() -> StateDict:
    kind = kinds.kinds_of("tsm_r18")[0]
    return draw(kind, registry.configure("tsm_r18", num_classes=CLASSES))


def test_a_file_of_another_network_there_and_back(tsm: StateDict, tmp_path: Path) -> None:
    write_torch_file(tmp_path / "a.pth", {"state_dict": tsm, "optimizer": {"lr": 0.1}})
    model, report = from_torch_file(tmp_path / "a.pth")
    assert model.config == registry.configure("tsm_r18", num_classes=CLASSES)
    counters = [name for name in tsm if name.endswith("num_batches_tracked")]
    assert set(report.used) == set(tsm) - set(counters)
    assert set(report.left_out) == {*counters, "optimizer"}
    assert "tsm_r18, 8 frames, 7 classes" in str(report)
    to_torch_file(tmp_path / "b.pth", model)
    again = st.load(tmp_path / "b.pth")
    found = to_state_dict(again)
    assert list(found) == list(tsm)
    for name, array in tsm.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_what_shapes_do_not_say_survives(tsm: StateDict, tmp_path: Path) -> None:
    model = st.from_state_dict(tsm, dropout=0.25)
    to_torch_file(tmp_path / "a.pth", model)
    assert st.load(tmp_path / "a.pth").config.dropout == 0.25


def refusal(state_dict: StateDict, **options: Any) -> str:
    with pytest.raises(CheckpointError) as error:
        st.from_state_dict(state_dict, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_entry_and_every_weight_is_accounted_for(tsm: StateDict) -> None:
    name = "backbone.layer2.0.conv1.bn.weight"
    assert name in tsm
    rest = {key: array for key, array in tsm.items() if key != name}
    assert f"1 missing ({name} (128,))" in refusal(rest)
    assert "1 unexpected (backbone.x (2,))" in refusal(tsm | {"backbone.x": np.zeros(2)})
    assert f"{name} has shape (3,), expected (128,)" in refusal(tsm | {name: np.ones(3)})
    assert "'tsm_r18' has no field 'grids'" in refusal(tsm, grids=0.5)
    assert "weights of the network 'tsm_r18', expected 'squeezetime'" in refusal(
        tsm, name="squeezetime"
    )


def test_another_number_of_classes_gets_a_new_head(tsm: StateDict) -> None:
    model = st.from_state_dict(tsm, num_classes=3)
    assert model.config.num_classes == 3
    found = to_state_dict(model)
    assert found["cls_head.fc_cls.weight"].shape == (3, 512)
    for name in tsm.keys() - {"cls_head.fc_cls.weight", "cls_head.fc_cls.bias"}:
        np.testing.assert_array_equal(found[name], tsm[name])
