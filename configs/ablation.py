r"""The network of the ablations at a scale that two processor cores train in a minute or two.

    python experiments/tables.py run 1 --scale demo --workdir runs/tables
    squeezetime train --config configs/ablation.py --workdir runs/one --config.model.branches=tfc

Tables: 1 to 5, each row as a change of this network, on the embedded motion data set.
Accuracy and cost: docs/tables.md has what was measured, with the command that made it.
Data: 2048 training and 800 test videos of 40 x 40 pixels, harder than those of configs/demo.py;
  network and recipe are as there.

Difficulty and length were chosen with the whole network alone (seed 0), before any variant was run,
for it to be far from 100 % and from chance (12.5 %): 5 epochs gave 22.8 % at difficulty 0.8, 51.5 %
at 0.5 and 85.0 % at 0.3, which was taken.
"""

from squeezetime_jax.training import config as experiment


def get_config(variant="released"):
    """The experiment."""
    experiment.check_variant(variant, "released")
    config = experiment.read([f"--config={experiment.shipped_configs()['demo']}"])
    config.model.gate_init = "released"
    config.data.motion.update(num_test=800, difficulty=0.3)
    # Once, at the end: nothing is chosen by the test videos.
    config.evaluation.every_epochs = 0.0
    config.run.tensorboard = False
    return config
