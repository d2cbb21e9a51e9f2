import dataclasses
import json

import jax
import pytest
from processes import finish, free_port, start

from squeezetime_jax.errors import UserError
from squeezetime_jax.training import devices

STEPS = 6


def _losses(*arguments: object, num_devices: int, **environment: str) -> list[dict]:
    status, out, err = finish(
        start("losses", STEPS, *arguments, num_devices=num_devices, **environment)
    )
    assert status == 0, err
    return [json.loads(line) for line in out.splitlines()]


@pytest.fixture(scope="module")
def one_process() -> dict[int, dict]:
    """The losses on 1, 2, 4 and 8 devices of one process."""
    return {found["devices"]: found for found in _losses("1,2,4,8", num_devices=8)}


def _assert_same(found: dict, reference: dict) -> None:
    assert len(found["losses"]) == STEPS
    assert found["losses"] == pytest.approx(reference["losses"], abs=1e-5)


def test_any_number_of_devices_gives_the_same_losses(one_process: dict[int, dict]) -> None:
    assert sorted(one_process) == [1, 2, 4, 8]
    for found in one_process.values():
        _assert_same(found, one_process[1])
    # The losses are not those of any other batches: another seed moves them by more.
    (other,) = _losses("1", "seed=1", num_devices=1)
    assert other["losses"][0] != pytest.approx(one_process[1]["losses"][0], abs=1e-4)


def test_two_processes_of_two_devices_give_the_same_losses(one_process: dict[int, dict]) -> None:
    port = free_port()
    common = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2"}
    processes = [
        start("losses", STEPS, 0, num_devices=2, **common, JAX_PROCESS_ID=str(i)) for i in (0, 1)
    ]
    for status, out, err in [finish(process) for process in processes]:
        assert status == 0, err
        _assert_same(json.loads(out.splitlines()[-1]), one_process[1])


def _assert_gradients_alone_are_exchanged(found: dict) -> None:
    # Beside them, the running statistics of batch norm and the metrics.
    assert 0.9 * found["params"] < found["collectives"] <= 1.05 * found["params"]


def test_devices_exchange_the_gradients_once_and_little_else(one_process: dict[int, dict]) -> None:
    assert one_process[1]["collectives"] == 0
    for count in (2, 4, 8):
        _assert_gradients_alone_are_exchanged(one_process[count])


@pytest.mark.slow
def test_so_does_squeezetime() -> None:
    # At a higher rate the network magnifies differences of rounding.
    fields = ("network='squeezetime'", "optimizer__learning_rate=0.00075")
    alone, together = _losses("1,8", *fields, num_devices=8)
    _assert_same(together, alone)
    _assert_gradients_alone_are_exchanged(together)


def test_collectives_are_counted_by_the_arrays_they_yield() -> None:
    program = """
      %a = f32[5,2]{1,0} all-reduce(%x), replica_groups={}
      %b = (f32[3]{0}, bf16[4]{0}, pred[]) all-reduce(%y, %z, %p), to_apply=%sum
      %c = f32[100]{0} add(%x, %y)
      %d = s32[2]{0} all-gather-start(%q)
    """
    assert devices.collective_bytes(program) == 40 + (12 + 8 + 1) + 8


class Devices:
    """A mesh of a number of devices."""

    def __init__(self, size: int):
        self.size = size


def _check(devices_: int, batch_size: int, **changes: int | None) -> None:
    devices.check_batch_on.__wrapped__(Devices(devices_), batch_size, **changes)  # type: ignore[attr-defined]


def test_a_batch_that_devices_cannot_share_is_refused() -> None:
    with pytest.raises(UserError, match=r"10 is not a multiple of the 4 devices; choose 8 or 12"):
        _check(4, 10)
    with pytest.raises(UserError, match=r"multiple of the 4 devices; choose 4$"):
        _check(4, 3)


def test_groups_that_devices_cannot_share_are_refused() -> None:
    """They would gather whole feature maps at every norm."""
    with pytest.raises(UserError, match=r"has 3 groups .* = 64, which 4 devices .*batch_size 256,"):
        _check(4, 192, group_size=64)
    with pytest.raises(UserError, match=r"has 6 groups .* choose batch_size 256 or 512, or"):
        _check(4, 384, group_size=64)
    with pytest.raises(UserError, match=r"has 3 groups .* in each of 2 parts, which 2 devices"):
        _check(2, 24, group_size=4, parts=2)
    for sizes in ({"group_size": 64}, {"group_size": None}, {"group_size": 32, "parts": 2}):
        _check(4, 256, **sizes)
    _check(2, 32, group_size=64)  # a single group may be shared


@dataclasses.dataclass(frozen=True)
class Device:
    """A device of a machine that is not here."""

    process_index: int
    id: int


def test_the_mesh_is_in_order_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a TPU slice, ids run along the wiring, across hosts."""
    slice_of = [Device(process, id) for process, id in [(1, 2), (0, 4), (1, 6), (0, 0)]]
    monkeypatch.setattr(jax, "devices", lambda: slice_of)
    meshes: list = []
    monkeypatch.setattr(devices, "Mesh", lambda found, axes, **_: meshes.append(list(found)))
    devices.data_mesh.__wrapped__()  # type: ignore[attr-defined]
    assert meshes == [[slice_of[3], slice_of[1], slice_of[0], slice_of[2]]]
