r"""The network of the ablations at a scale that two processor cores train in a minute or two.

    python experiments/table1_branches.py --scale demo --workdir runs/tables
    squeezetime train --config configs/ablation.py --workdir runs/one --config.model.branches=tfc

Tables: 1 to 5, each row as a change of this network, on the embedded motion data set.
Accuracy and cost: docs/tables.md has what was measured, with the command that made it.
Data: 2048 training and 800 test videos of 40 x 40 pixels, harder than those of configs/demo.py.

Difficulty and length were chosen with the whole network alone (seed 0), before any variant was run,
for it to be far from 100 % and from chance (12.5 %): 5 epochs gave 22.8 % at difficulty 0.8, 51.5 %
at 0.5 and 85.0 % at 0.3, which was taken.
"""

from squeezetime_jax.training import config as experiment


def get_config(variant="released"):
    """The experiment."""
    experiment.check_variant(variant, "released")
    config = experiment.default()
    side = 40

    config.epochs = 5
    config.batch_size = 32
    config.data.train = "motion"
    config.data.motion.update(num_train=2048, num_test=800, size=side, difficulty=0.3)
    config.data.frame_interval = 2
    config.data.crop = "center"
    config.data.short_side = config.data.crop_size = side
    # Flipped, a class may become another or none.
    config.augmentation.update(flip=0.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
    config.augmentation.erase = 0.0

    config.model.depth = 10
    config.model.width = 0.5
    config.model.num_classes = 8
    config.model.position_grids = (10, 5, 2, 1)
    config.model.dropout = 0.2
    config.model.bn_group_size = 32

    config.optimizer.learning_rate = 0.1
    config.optimizer.base_batch_size = 32
    config.optimizer.warmup_epochs = 1.0
    config.optimizer.final_learning_rate = 0.001
    config.optimizer.weight_decay = 1e-4
    config.optimizer.clip_norm = 1.0

    # Once, at the end: nothing is chosen by the test videos.
    config.evaluation.every_epochs = 0.0
    config.evaluation.short_side = config.evaluation.crop_size = side
    config.evaluation.batch_size = 50
    config.run.save_epochs = 2.0
    config.run.tensorboard = False
    return config
