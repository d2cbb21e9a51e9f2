r"""The embedded persons: a data set in AVA's formats that is made on first use.

    squeezetime train --config configs/ava_demo.py --workdir runs/ava_demo
    squeezetime eval  --config configs/ava_demo.py --checkpoint runs/ava_demo

Frame mAP: 89.7 % on 300 test videos (seed 0); with each clip's frames in a random order 7.6, 7.3
  and 6.9 %, three draws of orders.
Cost: 6 epochs of 1600 videos of 48 x 48 pixels; less than four minutes on two cores, shared.
Data: persons that walk round a circle and swell and shrink, 48 x 48 pixels; made in the run's
  directory.
"""

from squeezetime_jax.data.embedded import people
from squeezetime_jax.tasks.detection import config as detection
from squeezetime_jax.training import config as experiment


def get_config(variant="released"):
    """The experiment."""
    experiment.check_variant(variant, "released")
    config = experiment.default("detection")
    side = 48

    config.epochs = 6
    config.batch_size = 32
    config.data.train = detection.PEOPLE
    config.data.people.update(num_train=1600, num_test=300, size=side, difficulty=0.2)
    config.data.frame_interval = 2
    config.data.fps = people.FPS
    config.data.start = people.START
    config.data.end = people.START + people.SECONDS
    config.data.frame_offset = 0
    config.data.max_boxes = 8
    config.data.crop = "none"
    config.data.crop_size = side
    # Flipped, one action becomes another.
    config.augmentation.update(flip=0.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
    config.augmentation.erase = 0.0

    config.model.depth = 10
    config.model.width = 0.5
    config.model.num_classes = 1 + len(people.ACTIONS)
    # Small frames: the last two stages keep their resolution.
    config.model.strides = (1, 2, 1, 1)
    config.model.position_grids = (12, 6, 6, 6)
    config.model.dropout = 0.0
    config.model.bn_group_size = 32

    config.optimizer.method = "adam"
    config.optimizer.learning_rate = 0.003
    config.optimizer.base_batch_size = 32
    config.optimizer.warmup_epochs = 1.0
    config.optimizer.final_learning_rate = 3e-5
    config.optimizer.weight_decay = 0.0

    config.evaluation.every_epochs = 3.0
    config.evaluation.batch_size = 50
    config.run.save_epochs = 2.0
    return config
