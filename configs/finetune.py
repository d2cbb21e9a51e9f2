"""Your own videos, from released or own weights.

    squeezetime train --config configs/finetune.py --workdir runs/mine --from SqueezeTime_K400.pth \
        --config.data.train=videos/train --config.data.test=videos/val

`train` and `test` are folders with a folder of videos per class, annotation lists (a line `path
label` per video, with `--config.data.root`), or shards that `squeezetime prepare` wrote.

What depends on the size of the data is chosen from it: classes and the new head; 8 to 64 clips in
a batch, with at least 20 steps in an epoch; 10 to 100 epochs, some 60 thousand clips in all. The
rest is HMDB51's recipe with a cosine: the backbone moves at a tenth of the head's rate. Name any
field on the command line to choose it yourself. If left and right matter to your classes, turn the
flip off: `--config.augmentation.flip=0.0`.

Expect: 65 % on HMDB51 from Kinetics-400 weights (the paper's figure for its recipe). Cost: 60
thousand clips, about 10 minutes on a recent GPU, 6 hours on 2 cores.
"""

from squeezetime_jax.training import config as experiment


def get_config(variant="released"):
    """The experiment."""
    experiment.check_variant(variant, "released")
    config = experiment.default()
    config.epochs = 0  # by the number of videos
    config.batch_size = 0
    config.model.num_classes = 0
    config.model.bn_group_size = 64
    config.optimizer.learning_rate = 0.02
    config.optimizer.base_batch_size = 64
    config.optimizer.backbone_multiplier = 0.1
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 1.0
    config.optimizer.weight_decay = 1e-3
    config.optimizer.label_smoothing = 0.1
    return config
