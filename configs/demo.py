"""The embedded motion data set: a first run that anybody can do, and a check that all is well.

squeezetime train --config configs/demo.py --workdir runs/demo
"""

from squeezetime_jax.training import config as experiment


def get_config(variant="released"):
    """The experiment."""
    experiment.check_variant(variant, "released")
    config = experiment.default()
    config.epochs = 12
    config.batch_size = 32
    config.model.depth = 10
    config.model.width = 0.25
    config.model.num_classes = 8
    config.model.bn_group_size = 32
    config.model.dropout = 0.2
    config.data.train = "motion"
    config.data.frame_interval = 2
    config.data.short_side = 64
    config.data.crop_size = 64
    config.data.crop = "center"
    config.evaluation.short_side = 64
    config.evaluation.crop_size = 64
    return config
