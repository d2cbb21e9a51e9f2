"""ImageNet-1k pre-training of the backbone, which the Kinetics runs start from.

Neither the paper nor the release says how its ImageNet weights were trained. Assumed here: a
picture repeated 16 times makes a clip, so that the stem has the Kinetics network's own shape and no
weight needs adapting; ResNet-50's usual recipe (90 epochs, 0.1 per 256 pictures, 5 epochs of
warm-up, cosine to 0, weight decay 1e-4, label smoothing 0.1). No accuracy is promised.

    squeezetime train --config configs/imagenet1k.py --workdir runs/in1k \
        --config.data.train=imagenet/train --config.data.test=imagenet/val

`train` and `val` are folders of class folders of pictures. After it, `--from runs/in1k` starts
`k400.py`.

Cost: 90 epochs of 1.28 million clips: about five times `k400.py`; decoding is cheap.
"""

from squeezetime_jax.training import config as experiment


def get_config(variant="released"):
    """The experiment."""
    experiment.check_variant(variant, "released")
    config = experiment.default()
    config.epochs = 90
    config.batch_size = 1024
    config.model.num_classes = 1000
    config.model.bn_group_size = 64
    config.data.train = "data/imagenet/train"
    config.data.test = "data/imagenet/val"
    config.data.images = True
    config.optimizer.learning_rate = 0.1
    config.optimizer.base_batch_size = 256
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 5.0
    config.optimizer.weight_decay = 1e-4
    config.optimizer.label_smoothing = 0.1
    return config
