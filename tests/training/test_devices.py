import json

import jax
import jax.numpy as jnp
import pytest
from processes import finish, free_port, start

from squeezetime_jax.errors import UserError
from squeezetime_jax.training import devices

STEPS = 20


def _losses(*arguments: object, num_devices: int, **environment: str) -> list[dict]:
    status, out, err = finish(
        start("losses", STEPS, *arguments, num_devices=num_devices, **environment)
    )
    assert status == 0, err
    return [json.loads(line) for line in out.splitlines()]


@pytest.fixture(scope="module")
def one_process() -> dict[int, dict]:
    """What 1, 2, 4 and 8 devices of one process give."""
    return {found["devices"]: found for found in _losses("1,2,4,8", num_devices=8)}


@pytest.mark.slow
def test_any_number_of_devices_gives_the_same_losses(one_process: dict[int, dict]) -> None:
    reference = one_process[1]["losses"]
    for found in one_process.values():
        assert found["losses"] == pytest.approx(reference, abs=1e-5)


@pytest.mark.slow
def test_devices_exchange_the_gradients_once_and_hardly_more(
    one_process: dict[int, dict],
) -> None:
    assert one_process[1]["collectives"] == 0
    for count in (2, 4, 8):
        found = one_process[count]
        assert 0.9 * found["params"] < found["collectives"] <= 1.05 * found["params"]


@pytest.mark.slow
def test_two_processes_of_two_devices_give_the_same_losses(one_process: dict[int, dict]) -> None:
    port = free_port()
    common = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2"}
    processes = [
        start("losses", STEPS, 0, num_devices=2, **common, JAX_PROCESS_ID=str(i)) for i in (0, 1)
    ]
    results = [finish(process) for process in processes]
    for status, out, err in results:
        assert status == 0, err
        found = json.loads(out.splitlines()[-1])
        assert found["losses"] == pytest.approx(one_process[1]["losses"], abs=1e-5)


def test_collectives_are_counted_by_the_arrays_they_yield() -> None:
    program = """
      %a = f32[5,2]{1,0} all-reduce(%x), replica_groups={}
      %b = (f32[3]{0}, bf16[4]{0}, pred[]) all-reduce(%y, %z, %p), to_apply=%sum
      %c = f32[100]{0} add(%x, %y)
      %d = s32[2]{0} all-gather-start(%q)
    """
    assert devices.collective_bytes(program) == 40 + (12 + 8 + 1) + 8


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, False),
        ({"SLURM_NTASKS": "4"}, False),  # inside an allocation, but not in a step of it
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "t0,t1"}, True),
    ],
)
def test_clusters_are_known_by_their_environment(
    environment: dict[str, str], expected: bool
) -> None:
    assert devices.in_cluster(environment) is expected


def test_a_lone_process_connects_to_nobody() -> None:
    assert devices.connect(environment={}) is False


def test_half_an_address_is_refused() -> None:
    with pytest.raises(UserError, match="only some of coordinator address"):
        devices.connect("host:1234", environment={})
    with pytest.raises(UserError, match="JAX_PROCESS_ID must be a number, got 'two'"):
        devices.connect(environment={"JAX_PROCESS_ID": "two"})


def test_a_batch_that_devices_cannot_share_is_refused() -> None:
    class FourDevices:
        size = 4

    told = "batch_size 10 is not a multiple of the 4 devices; choose 8 or 12"
    with pytest.raises(UserError, match=told):
        devices.check_batch_on.__wrapped__(FourDevices(), 10)  # type: ignore[attr-defined]


def test_a_tree_is_laid_out_as_new_buffers() -> None:
    tree = {"a": jnp.ones(3)}
    laid = devices.put_everywhere(tree, devices.data_mesh())
    assert laid["a"].unsafe_buffer_pointer() != tree["a"].unsafe_buffer_pointer()
    assert isinstance(laid["a"], jax.Array)
