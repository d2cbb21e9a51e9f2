"""HMDB51, split 1, from Kinetics-400 weights: 65.56 % top-1 / 90.3 % top-5 (2 clips x 3 crops).

| paper | 16x4 | 65.6 % / 90.3 % |
| released weights | 16x4, crops of 286 x 286 | 65.56 % |

    squeezetime train --config configs/hmdb51.py --workdir runs/hmdb51 --from SqueezeTime_K400.pth \
        --config.data.train=hmdb51/train_split_1.txt --config.data.test=hmdb51/val_split_1.txt \
        --config.data.root=hmdb51/videos

Variants: `:released` (default): 0.02 per 64 clips (0.16 at 512), a tenth of it for the backbone,
weight decay 8e-3. `:paper`: 0.015 at 512 for all, weight decay 1e-2. Both divide the rate by ten
after 12 and 24 epochs. The schedule of the evaluation is the release's: each epoch, crops of 224.

Cost: 50 epochs of 3 570 clips: about 20 minutes on one recent GPU. Not trained in full by this
project.
"""

from squeezetime_jax.training import config as experiment


def get_config(variant="released"):
    """The experiment."""
    experiment.check_variant(variant, "released", "paper")
    released = variant == "released"
    config = experiment.default()
    config.epochs = 50
    config.batch_size = 512
    config.model.num_classes = 51
    config.model.bn_group_size = 64
    config.data.train = "data/hmdb51/train_split_1.txt"
    config.data.test = "data/hmdb51/val_split_1.txt"
    config.optimizer.learning_rate = 0.02 if released else 0.015
    config.optimizer.base_batch_size = 64 if released else 512
    config.optimizer.backbone_multiplier = 0.1 if released else 1.0
    config.optimizer.schedule = "steps"
    config.optimizer.milestones = (12, 24)
    config.optimizer.step_factor = 0.1
    config.optimizer.weight_decay = 8e-3 if released else 1e-2
    config.evaluation.num_clips = 2
    config.evaluation.num_crops = 3
    config.evaluation.short_side = 224
    config.evaluation.batch_size = 16
    return config
