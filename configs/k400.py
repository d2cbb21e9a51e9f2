"""Kinetics-400, from ImageNet weights: 71.64 % top-1 / 89.3 % top-5 (10 clips x 3 crops).

| paper, Table 6 | 16x4, 224 x 224 | 71.6 % / 89.3 % |
| released weights | 16x4, 224 x 224 | 71.64 % |

    squeezetime train --config configs/k400.py --workdir runs/k400 --from in1k.pth \
        --config.data.train=k400/train.txt --config.data.test=k400/val.txt \
        --config.data.root=k400/train_256 --config.data.test_root=k400/val_256

`--from` takes the ImageNet weights: the released `in1k` file, or a run of `imagenet1k.py`.

Variants: `:released` (default), the configuration of the released code; `:paper`, what the paper
states. They differ in the learning rate alone: the release scales 0.015 per 64 clips with the batch
(0.12 at 512), the paper has 0.015 at 512. The paper gives no start of the warm-up and no end of the
cosine; those of the release are taken.

Cost: 100 epochs of 240 thousand clips, 24 million in all: some 3 hours on 8 V100s if each trains
at a third of the 903 clips a second that the paper reports for scoring, and 2 400 clips a second
can be decoded. Not trained in full by this project.
"""

from squeezetime_jax.training import config as experiment


def get_config(variant="released"):
    """The experiment."""
    experiment.check_variant(variant, "released", "paper")
    config = experiment.default()
    config.epochs = 100
    config.batch_size = 512
    config.model.num_classes = 400
    config.model.bn_group_size = 64
    config.data.train = "data/kinetics400/train.txt"
    config.data.test = "data/kinetics400/val.txt"
    config.data.labels = ""
    config.optimizer.learning_rate = 0.015
    config.optimizer.base_batch_size = 64 if variant == "released" else 512
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 8.0
    config.optimizer.final_learning_rate = 0.015 / 100
    config.optimizer.weight_decay = 7e-5
    config.evaluation.every_epochs = 2.0
    return config
