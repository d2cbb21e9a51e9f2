r"""THUMOS14, temporal action localisation: SqueezeTime in Table 11.

    squeezetime train --config configs/thumos14.py --workdir runs/thumos14 --from k400.pth \
        --config.data.annotations=thumos14/annotations --config.data.videos=thumos14/videos
    squeezetime eval --config configs/thumos14.py --checkpoint runs/thumos14
    squeezetime localize VIDEO --checkpoint runs/thumos14

Mean average precision over the overlaps 0.3, 0.4, ..., 0.7: 32.7 % in the paper. Not trained by us
  yet; the paper gives no code for it, and what its text leaves open is our reading
  (docs/localization.md).
Cost: 7842 windows x 16 epochs of 32 clips of 96 x 96 pixels: 12 P multiply-adds, three times the
  forward pass of 32 x 1.01 G; the authors of the head took a day on a V100.
Data: annotations as the reference has them; 413 videos, decoded once into 33 GB of arrays.
Start: `--from` Kinetics-400 weights, the authors' or a run of configs/k400.py.

Variants:
  :thumos14  (default) the paper's, its gaps filled as in docs/localization.md.
  :demo      untrimmed motion videos, made on first use, from the demo's weights; 95 % in minutes
             on a laptop CPU, 24 % with the frames of each clip shuffled:
             squeezetime train --config thumos14:demo --workdir runs/demo --from squeezetime-demo
"""

from squeezetime_jax.training import config as experiment


def get_config(variant="thumos14"):
    """The experiment."""
    experiment.check_variant(variant, "thumos14", "demo")
    config = experiment.default("localization")
    if variant == "demo":
        return _demo(config)
    config.seed = 2020
    config.init = "k400.pth"
    config.published.update(average=0.327, source="paper, Table 11")
    return config


def _demo(config):
    """The backbone of configs/demo.py on small videos of several motions each."""
    config.epochs = 5
    config.batch_size = 4
    config.init = "squeezetime-demo"
    config.model.update(depth=10, width=0.5, num_classes=8, position_grids=(10, 5, 2, 1))
    config.window.update(stored_side=40, crop_side=40, normalization="imagenet")
    config.head.channels = 128
    config.data.annotations = "untrimmed"
    # Mirrored, a motion may become another.
    config.data.flip = 0.0
    config.data.stride = 64
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 0.5
    config.optimizer.weight_decay = 1e-4
    config.run.log_steps = 10
    return config
