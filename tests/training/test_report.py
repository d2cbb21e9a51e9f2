import json
import sys
import time
from pathlib import Path

import pytest

from squeezetime_jax.training import report


def _line(step: int, loss: float) -> dict[str, float]:
    return {"loss": loss, "top1": 0.5, "learning_rate": 0.1, "grad_norm": 1.0}


def test_lines_after_the_resumed_step_are_written_again(tmp_path: Path) -> None:
    first = report.MetricsFile(tmp_path)
    for step in (1, 2, 3):
        first.training(step, _line(step, float(step)))
    first.close()
    with (tmp_path / report.METRICS).open("a") as file:
        file.write('{"step": 4, "kin')  # cut short by a kill
    second = report.MetricsFile(tmp_path, start_step=2)
    second.evaluation(3, {"top1": 0.25})
    second.close()
    lines = report.read_metrics(tmp_path)
    assert [(line["step"], line["kind"]) for line in lines] == [
        (1, "train"),
        (2, "train"),
        (3, "eval"),
    ]


def test_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture) -> None:
    console = report.console(0, 100, batch_size=8)
    console.training(10, _line(10, 1.5))
    console.evaluation(10, {"top1": 0.123456})
    console.say("done")
    console.close()
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("step 10/100  loss 1.5  top1 50.00 %")
    assert out[1] == "step 10/100  evaluation: top1 12.35 %"
    assert out[2] == "done"
    assert "\x1b" not in "".join(out)


def test_a_bar_on_a_terminal_but_not_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    bar = report.console(0, 100, batch_size=8)
    bar.close()
    assert isinstance(bar, report.Bar)
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    assert isinstance(report.console(0, 100, batch_size=8), report.Lines)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (42, "42 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")]
)
def test_durations_as_people_read_them(seconds: float, text: str) -> None:
    assert report.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "advice"),
    [
        ({"data wait": 300.0, "step": 700.0}, "wait for data: try --config.data.workers=4 (now 1)"),
        ({"step": 600.0, "evaluation": 400.0}, "evaluate and save less often"),
        ({"step": 900.0, "saving": 100.0}, "the devices are busy"),
        ({"step": 100.0, "compiling": 200.0}, "spent once, at the start"),
    ],
)
def test_the_clock_says_what_would_help(
    seconds: dict[str, float], advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "available_cpus", lambda: 4)
    clock = report.Clock()
    clock.add(seconds)
    assert advice in clock.summary(workers=1)


def test_the_clock_counts_by_part() -> None:
    clock = report.Clock()
    clock.add({"step": 10.0})
    with clock("saving"):
        pass
    time.sleep(0.02)
    seconds = clock.seconds
    assert seconds["step"] == 10
    assert 0 < seconds["saving"] < 1
    assert 0.02 <= seconds["starting and other"] < 1
    assert f"time {report.duration(sum(seconds.values()))}: " in clock.summary()


def test_everyone_hears_everything(tmp_path: Path) -> None:
    both = report.Reporters([report.MetricsFile(tmp_path), report.TensorBoard(tmp_path)])
    both.training(1, _line(1, 2.0))
    both.evaluation(1, {"top1": 0.5})
    both.say("nothing for files")
    both.close()
    assert len(report.read_metrics(tmp_path)) == 2
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_curves_are_drawn_once_there_is_something_to_draw(tmp_path: Path) -> None:
    assert report.draw_curves(tmp_path, 5) is None
    file = report.MetricsFile(tmp_path)
    for step in range(1, 6):
        file.training(step, _line(step, 1 / step))
    file.evaluation(5, {"top1": 0.5})
    file.close()
    picture = report.draw_curves(tmp_path, 5)
    assert picture is not None
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.glob("*.png")] == ["curves.png"]


def test_the_environment_names_versions_and_devices() -> None:
    found = json.loads(json.dumps(report.environment()))
    assert found["versions"]["jax"]
    assert found["devices"]["count"] >= 1
