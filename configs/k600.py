"""Kinetics-600, from ImageNet weights: 76.06 % top-1 / 92.5 % top-5 (10 clips x 3 crops).

| paper | 16x4, 224 x 224 | 76.0 % / 92.5 % |
| released weights | 16x4, 224 x 224 | 76.06 % |

    squeezetime train --config configs/k600.py --workdir runs/k600 --from in1k.pth \
        --config.data.train=k600/train.txt --config.data.test=k600/val.txt --config.data.root=k600

The recipe of `k400.py` but for 600 classes and a weight decay of 3e-5 (released configuration). The
paper states no recipe of its own for this data set: there is no `:paper`.

Cost: 1.6 times that of `k400.py`. Not trained in full by this project.
"""

from squeezetime_jax.training import config as experiment


def get_config(variant="released"):
    """The experiment."""
    experiment.check_variant(variant, "released")
    config = experiment.default()
    config.epochs = 100
    config.batch_size = 512
    config.model.num_classes = 600
    config.model.bn_group_size = 64
    config.data.train = "data/kinetics600/train.txt"
    config.data.test = "data/kinetics600/val.txt"
    config.optimizer.learning_rate = 0.015
    config.optimizer.base_batch_size = 64
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 8.0
    config.optimizer.final_learning_rate = 0.015 / 100
    config.optimizer.weight_decay = 3e-5
    config.evaluation.every_epochs = 2.0
    return config
