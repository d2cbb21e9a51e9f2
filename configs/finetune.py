r"""Your own videos, from published weights or your own.

    squeezetime train --config configs/finetune.py --workdir runs/mine --from k400.pth \
        --config.data.train=videos/train --config.data.test=videos/test
    squeezetime predict new.mp4 --checkpoint runs/mine

Table: none; for data of your own.
Accuracy: your data's. HMDB51 (3570 videos, 51 classes) has 65.6 % in the paper from such a start.
Cost: some 60 thousand clips of 33 GFLOP for 600 to 6000 videos. Estimate: 4 device-minutes at 300
  clips a second, a third of the paper's 903 in inference on a V100; 4 hours on two processor cores
  at 0.22 s a clip.
Data: `train` and `test` are each a folder with a folder of videos per class, an annotation list (a
  line `path label` per video, relative to --config.data.root) or what `squeezetime prepare` wrote.

Taken from the weights (--from: a published file or a run of yours), unless given on the command
line: the network with its depth, width and frames (--config.model...), the frame interval and the
sizes of the clips (--config.data..., --config.evaluation...).

Chosen from the data, unless given on the command line:
  --config.model.num_classes   the classes found; the classifier is new
  --config.epochs              some 60 thousand clips in all, but at least 10 and at most 100 epochs
  --config.batch_size          64, or as much less as leaves 20 steps in an epoch, down to 8

Also worth a thought:
  --config.augmentation.flip=0.0          where left and right make a difference
  --config.data.target_fps=0              count frames; by default clips are taken in time, as if
                                          all videos had 30 frames a second
  --config.data.frame_interval=0          clips over the whole video, for short or whole actions
  --config.model.dtype=bfloat16           faster on GPUs and TPUs
  --config.data.workers=8                 decoding processes, where the devices wait for data
  --config.optimizer.accumulation=4 --config.model.bn_group_size=16    a quarter of the memory

Assumed, between the published recipes: 0.02 for 64 clips and a tenth of it for the backbone
(HMDB51, released), an epoch of warm-up and a cosine (Kinetics), weight decay 1e-3, label smoothing
0.1.
"""

from squeezetime_jax.training import config as experiment


def get_config(variant="released"):
    """The experiment."""
    experiment.check_variant(variant, "released")
    config = experiment.default()
    config.epochs = 0
    config.batch_size = 0
    config.data.target_fps = 30.0
    config.init = "k400.pth"
    config.follow_init = True
    config.model.num_classes = 0
    config.optimizer.learning_rate = 0.02
    config.optimizer.base_batch_size = 64
    config.optimizer.warmup_epochs = 1.0
    config.optimizer.backbone_multiplier = 0.1
    config.optimizer.weight_decay = 1e-3
    config.optimizer.label_smoothing = 0.1
    return config
