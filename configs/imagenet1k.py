r"""Pre-training of the backbone on ImageNet-1k pictures: what the Kinetics recipes start from.

    squeezetime train --config configs/imagenet1k.py --workdir runs/in1k \
        --config.data.train=imagenet/train --config.data.test=imagenet/val
    squeezetime train --config configs/k400.py --workdir runs/k400 --from runs/in1k

Table: none; the paper starts from ImageNet-1k weights and reports no accuracy of theirs.
Accuracy: unknown; nobody has reported one. The authors' in1k weights can stand in for this run.
Cost: 1.28 M pictures x 90 epochs = 115 M clips of 33 GFLOP (three times the forward pass of 2 x
  5.48 G multiply-adds). Estimate: 107 device-hours at 300 clips a second, a third of the paper's
  903 in inference on a V100.
Data: folders of class folders of pictures.

Assumed, for neither the paper nor the released code says how it was done: a picture is repeated 16
times to a clip, so that the weights fit the video network as they are. The recipe is a usual one of
ResNet-50 (90 epochs, 0.1 per 256 pictures, 5 epochs of warm-up, cosine to 0, weight decay 1e-4,
label smoothing 0.1, crops and flips alone, no dropout); the clipping and the groups of batch norm
are the video recipes'.
"""

from squeezetime_jax.training import config as experiment


def get_config(variant="released"):
    """The experiment."""
    experiment.check_variant(variant, "released")
    config = experiment.default()
    config.epochs = 90
    config.batch_size = 1024
    config.model.num_classes = 1000
    config.model.dropout = 0.0
    config.data.images = True
    config.data.train = "data/imagenet/train"
    config.data.test = "data/imagenet/val"
    config.data.frame_interval = 1
    config.augmentation.update(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, erase=0.0)
    config.optimizer.learning_rate = 0.1
    config.optimizer.base_batch_size = 256
    config.optimizer.warmup_epochs = 5.0
    config.optimizer.weight_decay = 1e-4
    config.optimizer.label_smoothing = 0.1
    return config
