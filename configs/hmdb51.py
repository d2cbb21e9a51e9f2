r"""HMDB51, split 1, from Kinetics-400 weights: the HMDB51 row of the paper's tables of results.

    squeezetime train --config configs/hmdb51.py --workdir runs/hmdb51 --from k400.pth \
        --config.data.train=hmdb51/train_1.txt --config.data.test=hmdb51/test_1.txt \
        --config.data.root=hmdb51/videos
    squeezetime eval --config configs/hmdb51.py --checkpoint runs/hmdb51 --views 2x3

Accuracy, 2 clips x 3 crops of 286 pixels: top-1 65.56 % with the released weights; 65.6 / 90.3 % in
  the paper.
Cost: 3570 videos x 50 epochs = 0.18 M clips of 33 GFLOP. Estimate: 10 device-minutes at 300 clips a
  second, a third of the paper's 903 in inference on a V100.
Data: by default mmaction2's layout, lists and folders under `data/hmdb51`.
Start: `--from` Kinetics-400 weights, the authors' or a run of configs/k400.py; a new classifier.

Variants:
  :released  (default) the authors' configuration: 0.02 for 64 clips, so 0.16 for the batch of 512,
             a tenth of it for the backbone; weight decay 8e-3.
  :paper     the paper's text: 0.015 for the batch of 512 and the whole network, weight decay 1e-2;
             focus weights that pool by maximum, as in k400.py:paper.

Assumed: on the way, one clip and one crop of 286 pixels, the test's size, choose the best
checkpoint. An epoch has 6 steps.
"""

from squeezetime_jax.training import config as experiment


def get_config(variant="released"):
    """The experiment."""
    experiment.check_variant(variant, "released", "paper")
    config = experiment.default()
    config.epochs = 50
    config.batch_size = 512
    config.init = "k400.pth"
    config.model.num_classes = 51
    config.data.train = "data/hmdb51/hmdb51_train_split_1_videos.txt"
    config.data.test = "data/hmdb51/hmdb51_val_split_1_videos.txt"
    config.data.root = "data/hmdb51/videos"
    config.optimizer.learning_rate = 0.02
    config.optimizer.base_batch_size = 64
    config.optimizer.schedule = "steps"
    config.optimizer.milestones = (12, 24)
    config.optimizer.step_factor = 0.1
    config.optimizer.backbone_multiplier = 0.1
    config.optimizer.weight_decay = 8e-3
    config.evaluation.short_side = 286
    config.evaluation.crop_size = 286
    config.run.log_steps = 6
    config.published.update(views="2x3", top1=0.6556, source="released weights")
    if variant == "paper":
        config.model.pooling = "max"
        config.optimizer.learning_rate = 0.015
        config.optimizer.base_batch_size = 512
        config.optimizer.backbone_multiplier = 1.0
        config.optimizer.weight_decay = 1e-2
        config.published.update(top1=0.656, top5=0.903, source="paper")
    return config
