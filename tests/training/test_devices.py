import contextlib
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest
from processes import finish, free_port, start

from squeezetime_jax.data.batches import endless_batches, local_rows
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
class Host:
    """The process that looks at devices."""

    index: int
    platform: str = "tpu"

    def process_index(self) -> int:
        return self.index


@dataclasses.dataclass(frozen=True)
class Device:
    """A device of a machine that is not here, as the process `client` sees it."""

    process_index: int
    id: int
    client: Host = Host(0)
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"


# Processes of the devices of a v5e 4x4 in the order of their wiring, as `jax.make_mesh` has them.
V5E_4X4 = [int(digit) for digit in "0011110233332220"]
SLICES = [*V5E_4X4, *(4 + process for process in V5E_4X4)]


def _mesh(monkeypatch: pytest.MonkeyPatch, processes: Sequence[int], host: int) -> Any:
    found = [Device(process, number, Host(host)) for number, process in enumerate(processes)]
    monkeypatch.setattr(jax, "devices", lambda: found)
    return devices.data_mesh.__wrapped__()  # type: ignore[attr-defined]


@pytest.mark.parametrize("processes", [V5E_4X4, SLICES], ids=["v5e-4x4", "two slices"])
def test_rows_of_a_tpu_slice_hold_the_records_of_one_process(
    processes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    size, steps, num_records = 2 * len(processes), 3, 5 * len(processes)

    def records(rows: np.ndarray | None) -> np.ndarray:
        with contextlib.closing(
            endless_batches(
                lambda rng, record: {"record": np.array([record, rng.integers(1 << 30)])},
                num_records,
                batch_size=size,
                seed=3,
                sample_bytes=16,
                rows=rows,
            )
        ) as batches:
            return np.stack([next(batches)["record"] for _ in range(steps)])

    whole, seen = records(None), []
    for host in range(max(processes) + 1):
        split = devices.split_batch(_mesh(monkeypatch, processes, host))
        rows = local_rows(split, size)
        assert rows.tolist() == list(range(8 * host, 8 * host + 8))  # 4 devices of 2 rows
        np.testing.assert_array_equal(records(rows), whole[:, rows])
        # Each device gets the rows that the batch has at its place.
        for device, (index, *_) in split.addressable_devices_indices_map((size,)).items():
            assert device.process_index == host
            assert set(range(size)[index]) <= set(rows)
        seen += rows.tolist()
    assert seen == list(range(size))


@pytest.mark.needs("libtpu")
@pytest.mark.parametrize(("slices", "hosts"), [(1, 4), (2, 8)])
def test_the_tpu_compilers_own_devices_are_dealt_by_process(
    slices: int, hosts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jax.experimental import topologies

    for name, value in TPU_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    topology = topologies.get_topology_desc("v5e:4x4", "tpu", num_slices=slices)
    monkeypatch.setattr(jax, "devices", lambda: topology.devices)
    split = devices.split_batch(devices.data_mesh.__wrapped__())  # type: ignore[attr-defined]
    rows: dict[int, set[int]] = {}
    for device, (index,) in split.devices_indices_map((32 * slices,)).items():
        rows.setdefault(device.process_index, set()).update(range(32 * slices)[index])
    assert rows == {host: set(range(8 * host, 8 * host + 8)) for host in range(hosts)}
    if slices == 1:
        by_wiring = jax.make_mesh((16,), ("x",), devices=topology.devices).devices.flat
        assert [device.process_index for device in by_wiring] == V5E_4X4


TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
