r"""Something-Something V2, from Kinetics-400 weights.

    squeezetime train --config configs/sthv2.py --workdir runs/sthv2 --from k400.pth \
        --config.data.train=sthv2/train.txt --config.data.test=sthv2/val.txt \
        --config.data.root=sthv2/videos
    squeezetime eval --config configs/sthv2.py --checkpoint runs/sthv2 --views 1x3

Table: none in the paper; the authors' code names the data set and ships neither recipe nor weights.
Accuracy: unknown; nobody has reported one for this network.
Cost: 169 thousand videos x 50 epochs = 8.4 M clips of 33 GFLOP. Estimate: 8 device-hours at 300
  clips a second, a third of the paper's 903 in inference on a V100.
Data: by default mmaction2's layout, lists and folders under `data/sthv2`.
Start: `--from` Kinetics-400 weights, the authors' or a run of configs/k400.py; a new classifier.

Assumed, after the field's practice on this data set: one clip of 16 frames over the whole video,
one frame from each of its equal parts, random within it in training and in the middle in testing.
The rest is the recipe of Kinetics-400 for half as many epochs.

Variants:
  :unflipped  (default) no flip, which would make "left to right" of "right to left".
  :exchanged  flips; clips of the six classes of direction then carry the opposite direction's label
              (mmaction2's practice). For labels numbered as in the data set's own labels.json.
"""

from squeezetime_jax.training import config as experiment

NUM_CLASSES = 174
# Pulling, pushing, and turning the camera: to the left and to the right.
OPPOSITE = {86: 87, 87: 86, 93: 94, 94: 93, 166: 167, 167: 166}


def get_config(variant="unflipped"):
    """The experiment."""
    experiment.check_variant(variant, "unflipped", "exchanged")
    config = experiment.default()
    config.epochs = 50
    config.batch_size = 512
    config.init = "k400.pth"
    config.model.num_classes = NUM_CLASSES
    config.data.train = "data/sthv2/sthv2_train_list_videos.txt"
    config.data.test = "data/sthv2/sthv2_val_list_videos.txt"
    config.data.root = "data/sthv2/videos"
    config.data.frame_interval = 0
    config.augmentation.flip = 0.0
    config.optimizer.learning_rate = 0.015
    config.optimizer.base_batch_size = 64
    config.optimizer.warmup_epochs = 4.0
    config.optimizer.final_learning_rate = 1.5e-4
    config.optimizer.weight_decay = 7e-5
    if variant == "exchanged":
        config.augmentation.flip = 0.5
        labels = (OPPOSITE.get(label, label) for label in range(NUM_CLASSES))
        config.augmentation.flip_labels = tuple(labels)
    return config
