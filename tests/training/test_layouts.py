"""Two processes of two devices and one process: the same losses, the same scores, the same errors.

`layouts.py compare` does it for other numbers of both, in float64 too.
"""

from pathlib import Path

import layouts
import pytest


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    (one,) = layouts.run(tmp_path, ["recognition"], 10, "1x1")
    (four,) = layouts.run(tmp_path, ["recognition"], 10, "2x2")
    assert (one["devices"], four["devices"]) == (1, 4)
    assert len(one["losses"]) == 10
    assert four["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert len({round(loss, 4) for loss in one["losses"]}) == 10  # other clips at every step


@pytest.mark.slow
def test_two_processes_score_as_one(tmp_path: Path) -> None:
    alone = layouts.run(tmp_path, list(layouts.TASKS), 0, "1x1", what="scores")
    together = layouts.run(tmp_path, list(layouts.TASKS), 0, "2x2", what="scores")
    assert together == alone
    for found, records in zip(alone, (12, 6, 2), strict=True):
        assert found["error"].startswith("1 video cannot be read")
        assert "one.mp4: damaged" in found["error"]
        assert found["count"] == records - 1
    assert alone[0]["whole"]["top1"] != alone[0]["rest"]["top1"]
