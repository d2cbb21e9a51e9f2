"""Hosts that find each other, agree and end together."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from squeezetime_jax import hosts
from squeezetime_jax.errors import UserError
from squeezetime_jax.training import devices

PROGRAM = Path(__file__).with_name("host.py")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


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
    assert hosts.in_cluster(environment) is expected


def test_a_lone_process_connects_to_nobody() -> None:
    assert hosts.connect(environment={}) is False


def test_half_an_address_is_refused() -> None:
    with pytest.raises(UserError, match="only some of coordinator address"):
        hosts.connect("host:1234", environment={})
    with pytest.raises(UserError, match="JAX_PROCESS_ID must be a number, got 'two'"):
        hosts.connect(environment={"JAX_PROCESS_ID": "two"})


def test_a_tree_is_copied_to_new_buffers() -> None:
    tree = {"a": jnp.arange(3.0)}
    copied = hosts.put_everywhere(tree, devices.data_mesh())
    assert copied["a"].unsafe_buffer_pointer() != tree["a"].unsafe_buffer_pointer()
    assert copied["a"].tolist() == [0, 1, 2]


def test_a_digest_is_of_all_values() -> None:
    tree = {"a": np.arange(3, dtype=np.int32), "b": ["x", 1]}
    assert hosts.digest(tree) == hosts.digest({"b": ["x", 1], "a": jnp.arange(3)})
    others = [{**tree, "a": tree["a"][::-1]}, {**tree, "a": np.arange(3.0)}]
    others += [{**tree, "b": ["x1"]}, {**tree, "b": ["x", 2]}]
    assert len({hosts.digest(other) for other in [tree, *others]}) == 5


def test_a_single_process_agrees_with_itself(tmp_path: Path) -> None:
    assert hosts.gather("x") == ["x"]
    hosts.agree("config", ["a"], "")
    hosts.check_shared(tmp_path / "new", "--workdir")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match=r"^wrong$"), hosts.together("host", environment={}):
        raise UserError("wrong")


def _two_hosts(folder: Path, what: str) -> list[tuple[int, dict, str]]:
    """Exit status, what was printed, and the errors, of each."""
    common = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
        "JAX_NUM_PROCESSES": "2",
    }
    running = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(folder), what],
            env={**os.environ, **common, "JAX_PROCESS_ID": str(host)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for host in (0, 1)
    ]
    ends = [(process.communicate(timeout=55), process.returncode) for process in running]
    return [(status, json.loads(out.splitlines()[-1]), err) for (out, err), status in ends]


@pytest.mark.slow
def test_hosts_agree_or_say_what_differs_and_one_that_fails_ends_all(tmp_path: Path) -> None:
    (first, found, err), (second, other, other_err) = _two_hosts(tmp_path, "fail")
    unshared = found.pop("unshared"), other.pop("unshared")
    assert all("host 1 does not see what host 0 writes there; it must be" in x for x in unshared)
    assert found == other
    assert found["gathered"] == [{"host": 0, "text": ""}, {"host": 1, "text": "é"}]
    assert (found["made"], found["same"], found["shared"]) == ("0", "", "")
    same = "every host must have the same: start again"
    assert found["other"] == f"config: host 0 has b = 0, host 1 has b = 1; {same}"
    assert found["longer"] == f"config: host 0 has nothing, host 1 has b = 1; {same}"
    assert list(tmp_path.rglob(".host0*")) == []
    assert (first, second) == (1, 1)
    assert err == "host: host 1 failed: videos.txt: not found\n"
    assert other_err == "host: videos.txt: not found\n"


@pytest.mark.slow
def test_the_death_of_a_host_ends_the_others_with_one_line(tmp_path: Path) -> None:
    (status, _, err), (killed, *_) = _two_hosts(tmp_path, "die")
    assert (status, killed) == (1, -9)
    assert err.startswith("host: host 1 has given no sign of life for 4 s")
    assert err.count("\n") == 1
