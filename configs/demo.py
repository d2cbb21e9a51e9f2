r"""The embedded motion data set: a first run that anybody can do, and a check that all is well.

    squeezetime train --config configs/demo.py --workdir runs/demo
    squeezetime demo                      # the same, with tests and a report around it

Table: none.
Accuracy: 97.5, 98.5 and 95.0 % top-1 on 400 test videos (seeds 0, 1 and 2), 25.8 and 29.2 % with
  the frames of each video in a random order (seeds 1 and 2); chance is 12.5 %.
Cost: 6 epochs of 2048 videos of 40 x 40 pixels; one to two minutes on two cores, and half a minute
  to make the videos.
Data: made on first use, in the run's directory.
"""

from squeezetime_jax.training import config as experiment


def get_config(variant="released"):
    """The experiment."""
    experiment.check_variant(variant, "released")
    config = experiment.default()
    side = 40

    config.epochs = 6
    config.batch_size = 32
    config.data.train = "motion"
    config.data.motion.update(num_train=2048, num_test=400, size=side, difficulty=0.2)
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
    config.model.gate_init = "zero"

    config.optimizer.learning_rate = 0.1
    config.optimizer.base_batch_size = 32
    config.optimizer.warmup_epochs = 1.0
    config.optimizer.final_learning_rate = 0.001
    config.optimizer.weight_decay = 1e-4
    # Without it the first steps at this rate throw the network far off, and most of the run is
    # spent on the way back.
    config.optimizer.clip_norm = 1.0

    config.evaluation.every_epochs = 3.0
    config.evaluation.short_side = config.evaluation.crop_size = side
    config.evaluation.batch_size = 50
    config.run.save_epochs = 2.0
    return config
