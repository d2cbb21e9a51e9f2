"""Something-Something V2, from Kinetics-400 or ImageNet weights.

The release names such a configuration but ships none, and the paper gives no figure: this is the
field's practice with the Kinetics recipe, and no accuracy is promised. One clip of 16 frames spread
over the whole video, one from each of 16 equal parts (random in training, the middle in testing);
no flip, for many classes name a direction.

    squeezetime train --config configs/sthv2.py --workdir runs/sthv2 --from SqueezeTime_K400.pth \
        --config.data.train=sthv2/train.txt --config.data.test=sthv2/val.txt \
        --config.data.root=sthv2/videos

Cost: 50 epochs of 169 thousand clips: about a third of `k400.py`.
"""

from squeezetime_jax.training import config as experiment


def get_config(variant="released"):
    """The experiment."""
    experiment.check_variant(variant, "released")
    config = experiment.default()
    config.epochs = 50
    config.batch_size = 512
    config.model.num_classes = 174
    config.model.bn_group_size = 64
    config.data.train = "data/sthv2/train.txt"
    config.data.test = "data/sthv2/val.txt"
    config.data.frame_interval = 0
    config.augmentation.flip = 0.0
    config.optimizer.learning_rate = 0.015
    config.optimizer.base_batch_size = 64
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 4.0
    config.optimizer.final_learning_rate = 0.015 / 100
    config.optimizer.weight_decay = 7e-5
    return config
