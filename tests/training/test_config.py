import re
from pathlib import Path

import pytest

from squeezetime_jax.errors import UserError
from squeezetime_jax.tasks.recognition.experiment import Recognition
from squeezetime_jax.tasks.recognition.task import fill_in
from squeezetime_jax.training import config
from squeezetime_jax.training.experiment import Run, differences, to_json

DEMO = "--config=configs/demo.py"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--config.batch_sise=3"], "no field batch_sise; did you mean batch_size?"),
        (
            ["--config.optimiser.mixup=3"],
            "no field optimiser.mixup; did you mean optimizer.mixup?",
        ),
        (["--config.data.workers=many"], "invalid literal for int() with base 10: 'many'"),
        (["--config.batch_size"], "config"),
    ],
)
def test_misspelt_fields_and_wrong_values_on_the_command_line(
    arguments: list[str], told: str
) -> None:
    with pytest.raises(UserError, match=re.escape(told)):
        config.read([DEMO, *arguments])


def test_unknown_file_and_unknown_variant() -> None:
    with pytest.raises(UserError, match=r"no file configs/k40\.py; did you mean k400\?"):
        config.read(["--config=configs/k40.py"])
    with pytest.raises(UserError, match="no variant 'papre'; known are released, paper"):
        config.read(["--config=k400:papre"])


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("fields.optimizer.weight_dekay = 1", "no field weight_dekay; did you mean weight_decay?"),
        ("fields.epochs = 2 * fields.epoch", "no field epoch; did you mean epochs?"),
        ('fields.data.update(traim="a")', "no field traim; did you mean train?"),
        ("fields.model.xyz = 1", "no field xyz"),
        ('fields.epochs = "a"', "Could not override field 'epochs'"),
    ],
)
def test_a_mistake_in_a_config_file_is_told_in_one_line_with_the_file(
    tmp_path: Path, line: str, told: str
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from squeezetime_jax.training import config\n"
        "def get_config():\n"
        "    fields = config.default()\n"
        f"    {line}\n"
        "    return fields\n"
    )
    with pytest.raises(UserError) as caught:
        config.read([f"--config={file}"])
    assert str(caught.value).startswith(f"config: {file}: ")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mapping_with_an_unknown_field_is_refused_with_the_nearest() -> None:
    fields = config.default().to_dict()
    fields["optimizer"]["momentun"] = 0.9
    with pytest.raises(UserError, match=r"no field optimizer.momentun; did you mean .*momentum\?"):
        config.parse(fields)


def test_values_reach_the_frozen_experiment() -> None:
    fields = config.read(
        [DEMO, "--config.optimizer.milestones=(3,5)", "--config.optimizer.learning_rate=0.5"]
    )
    experiment = config.parse(fields)
    assert experiment.optimizer.milestones == (3, 5)
    assert experiment.optimizer.learning_rate == 0.5
    assert isinstance(experiment.epochs, int)


def test_a_value_that_is_not_allowed_names_its_section() -> None:
    with pytest.raises(UserError, match=r"config: model: .*depth must be one of 10, 18"):
        config.parse(config.read([DEMO, "--config.model.depth=17"]))


def test_what_is_left_to_the_data_follows_its_size() -> None:
    for videos, batch, epochs in ((60, 8, 100), (700, 32, 86), (5000, 64, 12), (100_000, 64, 10)):
        fields = config.default()
        fields.model.num_classes = fields.batch_size = fields.epochs = 0
        fill_in(fields, videos, 7)
        assert (fields.model.num_classes, fields.batch_size, fields.epochs) == (7, batch, epochs)


def test_differences_name_fields_and_leave_out_what_does_not_matter() -> None:
    other = to_json(Recognition(seed=3, run=Run(log_steps=1)))
    other["optimizer"]["momentum"] = 0.5
    other["epochs"] = 90  # of which a run may have more
    assert differences(Recognition(), other) == [
        "optimizer.momentum: 0.5 -> 0.9",
        "seed: 3 -> 0",
    ]
    other = to_json(Recognition(epochs=101))
    assert differences(Recognition(), other) == ["epochs: 101 -> 100"]
