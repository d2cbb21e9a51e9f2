r"""Kinetics-400, the paper's main result: SqueezeTime in Tables 1, 4 (16 frames) and 5 (width 1).

    squeezetime train --config configs/k400.py --workdir runs/k400 --from in1k.pth \
        --config.data.train=k400/train.txt --config.data.root=k400/train \
        --config.data.test=k400/val.txt --config.data.test_root=k400/val
    squeezetime eval --config configs/k400.py --checkpoint runs/k400 --views 10x3

Accuracy, 10 clips x 3 crops: top-1 71.64 % with the released weights; 71.6 / 89.3 % in the paper.
Cost: 240 thousand videos x 100 epochs = 24 M clips of 33 GFLOP (three times the forward pass of 2 x
  5.48 G multiply-adds). Estimate: 22 device-hours at 300 clips a second, a third of the paper's 903
  in inference on a V100; and for each such device 8 cores that decode prepared videos.
Data: by default mmaction2's layout, lists and folders under `data/kinetics400`.
Start: `--from` ImageNet weights, the authors' or a run of configs/imagenet1k.py.

Variants:
  :released  (default) the authors' configuration: 0.015 for 64 clips, so 0.12 for the batch of 512.
  :paper     the paper's text: 0.015 for the batch of 512, and focus weights that pool by maximum.
             Where the text says nothing (where warm-up starts and the cosine ends), as released.

The other rows of Tables 4 and 5, top-1 / top-5, each from ImageNet weights of its own width:
  --config.model.num_frames=4  --config.data.frame_interval=12    70.7 / 89.1
  --config.model.num_frames=8  --config.data.frame_interval=8     70.9 / 88.9
  --config.model.num_frames=32 --config.data.frame_interval=2     71.7
  --config.model.width=0.5, 0.75 or 1.25                          67.8, 69.8, 71.9
"""

from squeezetime_jax.training import config as experiment


def get_config(variant="released"):
    """The experiment."""
    experiment.check_variant(variant, "released", "paper")
    config = experiment.default()
    config.epochs = 100
    config.batch_size = 512
    config.init = "in1k.pth"
    config.model.num_classes = 400
    config.data.train = "data/kinetics400/kinetics400_train_list_videos.txt"
    config.data.root = "data/kinetics400/videos_train"
    config.data.test = "data/kinetics400/kinetics400_val_list_videos.txt"
    config.data.test_root = "data/kinetics400/videos_val"
    config.optimizer.learning_rate = 0.015
    config.optimizer.base_batch_size = 64
    config.optimizer.warmup_epochs = 8.0
    config.optimizer.warmup_factor = 0.1
    config.optimizer.final_learning_rate = 1.5e-4
    config.optimizer.weight_decay = 7e-5
    config.published.update(views="10x3", top1=0.7164, source="released weights")
    if variant == "paper":
        config.model.pooling = "max"
        config.optimizer.base_batch_size = 512
        config.published.update(top1=0.716, top5=0.893, source="paper, Table 1")
    return config
