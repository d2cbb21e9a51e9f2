import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from squeezetime_jax.data import workers
from squeezetime_jax.errors import UserError

ENDLESS = """
import sys
sys.path.insert(0, {folder!r})
import test_workers
from squeezetime_jax.data import workers
if __name__ == "__main__":
    for item, result in workers.each(test_workers.own_id, range(10**9), 1):
        print(result, flush=True)
"""


def own_id(_):
    return os.getpid()


def work(item):
    if item == "dies":
        os._exit(11)
    if item == "bad":
        raise UserError("bad: no good")
    return item * 2


def test_results_come_in_order_and_a_dead_process_costs_one_item():
    items = ["a", "b", "bad", "dies", *"cdefghijklmnop"]
    found = list(workers.each(work, items, 2))
    assert [item for item, _ in found] == items
    outcomes = dict(found)
    assert str(outcomes["bad"]) == "bad: no good"
    assert str(outcomes["dies"]).startswith("dies: the process that read it died")
    rest = {item: result for item, result in found if item not in ("bad", "dies")}
    assert rest == {item: item * 2 for item in rest}


def test_items_are_taken_as_they_are_needed():
    taken = []
    results = workers.each(work, (taken.append(n) or str(n) for n in range(1000)), 1)
    assert next(results) == ("0", "00")
    assert len(taken) < 20
    results.close()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for the process in /proc")
def test_a_killed_parent_takes_its_processes_along(tmp_path):
    here = Path(__file__).parent
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS.format(folder=str(here)))
    environment = os.environ | {"PYTHONPATH": str(here.parents[1])}
    parent = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment
    )
    worker = Path("/proc", parent.stdout.readline().strip())
    assert worker.exists()
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    deadline = time.monotonic() + 20
    while worker.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not worker.exists()
