r"""AVA 2.1, spatio-temporal action detection: SqueezeTime in the paper's Table 10.

    squeezetime train --config configs/ava21.py --workdir runs/ava21 --from SqueezeTime_K400.pth
    squeezetime eval  --config configs/ava21.py --checkpoint SqueezeTime_AVA2.1.pth

Frame mAP at IoU 0.5: 15.1 % in the paper, 16 frames, 3.4 ms a clip.
Cost: some 180 thousand annotated seconds x 50 epochs = 9 M clips of 62 GFLOP (three times the
  forward pass of 2 x 10.3 G multiply-adds at 256 x 256). Estimate: 15 device-hours at 170 clips a
  second.
Data: by default mmaction2's layout under `data/ava`: csv files, list of actions and proposals in
  `annotations`, a folder of JPEG for each video in `rawframes`; or `--config.data.frames=` a folder
  of the videos themselves.
Start: `--from` Kinetics-400 weights, the authors' or a run of configs/k400.py. The authors' own
  configuration names a file for this that is not a checkpoint.

Variants:
  :released  (default) the authors' configuration: a peak learning rate of 1.0 for 128 clips.
  :paper     the paper's text: 0.01. What it calls "other settings same as" SlowFast's is left as
             released.

Which frames: `--config.data.frame_offset=1` (default) numbers them as mmaction2 does from 1.1 on, 0
as 1.0 did; the release fits both, and it is a thirtieth of a second.
"""

from squeezetime_jax.training import config as experiment


def get_config(variant="released"):
    """The experiment."""
    experiment.check_variant(variant, "released", "paper")
    config = experiment.default("detection")
    config.epochs = 50
    config.batch_size = 128
    config.init = "SqueezeTime_K400.pth"
    folder = "data/ava/annotations"
    config.data.train = f"{folder}/ava_train_v2.1.csv"
    config.data.test = f"{folder}/ava_val_v2.1.csv"
    config.data.train_excluded = f"{folder}/ava_train_excluded_timestamps_v2.1.csv"
    config.data.test_excluded = f"{folder}/ava_val_excluded_timestamps_v2.1.csv"
    config.data.train_proposals = f"{folder}/ava_dense_proposals_train.FAIR.recall_93.9.pkl"
    config.data.test_proposals = f"{folder}/ava_dense_proposals_val.FAIR.recall_93.9.pkl"
    config.data.labels = f"{folder}/ava_action_list_v2.1_for_activitynet_2018.pbtxt"
    config.data.frames = "data/ava/rawframes"
    config.optimizer.learning_rate = 1.0
    config.optimizer.base_batch_size = 128
    config.optimizer.warmup_epochs = 5.0
    config.optimizer.warmup_factor = 0.1
    config.optimizer.final_learning_rate = 0.01
    config.optimizer.weight_decay = 1e-5
    config.evaluation.every_epochs = 3.0
    config.published.update(frame_map=0.151, source="paper, Table 10")
    if variant == "paper":
        config.optimizer.learning_rate = 0.01
        # 0.01 is where the released schedule ends; a hundredth of the peak, as there, is kept.
        config.optimizer.final_learning_rate = 1e-4
    return config
