import os
import signal
import subprocess
import sys
import threading
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
    for item, result in workers.each(test_workers.own_id, [0, 600], 1):
        print(result, flush=True)
"""


def own_id(seconds):
    time.sleep(seconds)
    return os.getpid()


class Counted:
    """A function that counts how often it is sent to another process."""

    sent = 0

    def __call__(self, item):
        return item

    def __reduce__(self):
        self.sent += 1
        return Counted, ()


def work(item):
    if item == "dies":
        os._exit(11)
    if item == "hangs":
        time.sleep(600)
    if item == "bad":
        raise UserError("bad: no good")
    return item * 2


def test_results_come_in_order_and_a_crash_or_a_hang_costs_one_item():
    items = ["a", "b", "bad", "dies", *"cdefg", "hangs", *"hijklmnop"]
    limits = {"hangs": 1}
    found = list(workers.each(work, items, 2, seconds=lambda item: limits.get(item, 60)))
    assert [item for item, _ in found] == items
    outcomes = dict(found)
    assert str(outcomes.pop("bad")) == "bad: no good"
    assert str(outcomes.pop("dies")) == "dies: the process died (exit code 11)"
    assert str(outcomes.pop("hangs")) == "hangs: not done after 1 seconds"
    assert outcomes == {item: item * 2 for item in outcomes}
    assert len(outcomes) == len(items) - 3


def test_the_function_is_sent_once_to_each_process():
    function = Counted()
    assert list(workers.each(function, range(20), 2)) == [(k, k) for k in range(20)]
    assert function.sent == 2


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
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while (lives := worker.exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    if lives:
        os.kill(int(worker.name), signal.SIGKILL)
    assert not lives


def test_what_hangs_is_given_up_and_not_tried_again():
    calls = []

    def read(item):
        calls.append(item)
        if item == "hangs":
            time.sleep(30)
        if item == "bad":
            raise UserError("bad: no good")
        return item * 2

    assert workers.limited(read, "a", name="a") == "aa"
    with pytest.raises(UserError, match="bad: no good"):
        workers.limited(read, "bad", name="bad")
    for _ in range(2):
        with pytest.raises(UserError, match=r"held.mp4: not done after 0 seconds; replace"):
            workers.limited(read, "hangs", name="held.mp4", seconds=0.3)
    assert calls == ["a", "bad", "hangs"]
    (thread,) = [t for t in threading.enumerate() if t.name == "limited"]
    if hasattr(os, "sched_getscheduler"):
        assert os.sched_getscheduler(thread.native_id) == os.SCHED_IDLE
