"""The compared networks in PyTorch, from mmaction2's own code, for `squeezetime bench`.

    pip install torchvision mmengine mmcv-lite==2.1.0
    pip install --no-deps mmaction2==1.2.0 decord einops
    squeezetime bench --network paper --runtime jit --torch experiments/benchmarks/originals.py

SqueezeTime is the twin of the tests. MoViNet, E3D and TAda are in no package; TIN's shift is an
operation for GPUs; mmaction2 has no TANet of basic blocks; TPN is not here.
"""

import importlib.metadata
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import torch

_R2D = {"depth": 34, "pretrained": None}
_R3D = {"depth": 18, "pretrained": None, "pretrained2d": False, "norm_eval": False}
_INFLATED = {"conv1_kernel": (5, 7, 7), "conv1_stride_t": 2, "pool1_stride_t": 2}
_SLOW = {"conv1_kernel": (1, 7, 7), "inflate": (0, 0, 1, 1)}
_FACTORED = {
    "conv_cfg": {"type": "Conv2plus1d"},
    "norm_cfg": {"type": "BN3d", "eps": 1e-3},
    "conv1_kernel": (3, 7, 7),
    "conv1_stride_t": 1,
    "pool1_stride_t": 1,
    "inflate": (1, 1, 1, 1),
    "temporal_strides": (1, 2, 2, 2),
}
_PATHWAY = {
    **{"type": "resnet3d", "depth": 18, "pretrained": None, "norm_eval": False},
    **{"conv1_stride_t": 1, "pool1_stride_t": 1},
}
_PATHWAYS = {
    "slow_pathway": {**_PATHWAY, **_SLOW, "lateral": True},
    "fast_pathway": {
        **_PATHWAY,
        **{"lateral": False, "base_channels": 8, "conv1_kernel": (5, 7, 7)},
        "inflate": (1, 1, 1, 1),
    },
}

# Name in the register -> class in mmaction2, its arguments, channels of its features, and whether
# frames are samples of the batch.
NETWORKS: dict[str, tuple[str, dict[str, Any], int, bool]] = {
    "tsn_r34": ("ResNet", _R2D, 512, True),
    "tsm_r18": ("ResNetTSM", {**_R2D, "depth": 18, "num_segments": 8}, 512, True),
    "tsm_r34": ("ResNetTSM", {**_R2D, "num_segments": 8}, 512, True),
    "c2d_r34": ("C2D", _R2D, 512, False),
    "i3d_r18": ("ResNet3d", {**_R3D, **_INFLATED, "inflate": (1, 1, 1, 1)}, 512, False),
    "slowonly_r18": ("ResNet3dSlowOnly", {"depth": 18, "pretrained": None, **_SLOW}, 512, False),
    "r2plus1d_r18": ("ResNet2Plus1d", {**_R3D, **_FACTORED}, 512, False),
    "r2plus1d_r34": ("ResNet2Plus1d", {**_R3D, **_FACTORED, "depth": 34}, 512, False),
    "slowfast_r18": (
        "ResNet3dSlowFast",
        {"pretrained": None, "resample_rate": 8, "speed_ratio": 8, **_PATHWAYS},
        *(576, False),
    ),
    "x3d_xs": ("X3D", {"gamma_w": 1, "gamma_b": 2.25, "gamma_d": 2.2}, 432, False),
    "mvitv2_small": (
        "MViT",
        {"arch": "small", "temporal_size": 4, "spatial_size": 128, "drop_path_rate": 0.2},
        *(768, False),
    ),
    "videoswin_tiny": ("SwinTransformer3D", {"arch": "tiny", "pretrained2d": False}, 768, False),
    "timesformer_base": (
        "TimeSformer",
        {
            **{"num_frames": 4, "img_size": 128, "patch_size": 16, "pretrained": None},
            "attention_type": "joint_space_time",
        },
        *(768, False),
    ),
}


def build(network: str, clip: tuple[int, int, int]) -> tuple[torch.nn.Module, torch.Tensor] | None:
    """A network with random weights and a clip (frames, height, width) as it takes it."""
    frames, height, width = clip
    torch.manual_seed(0)
    if network == "squeezetime":
        sys.path.append(str(Path(__file__).parents[2] / "tests"))
        import torch_twin

        from squeezetime_jax import SqueezeTimeConfig

        config = SqueezeTimeConfig(num_frames=frames)
        return torch_twin.Twin(config), torch.randn(1, 3, frames, height, width)
    if network not in NETWORKS:
        return None
    name, arguments, channels, is_2d = NETWORKS[network]
    module = Classified(getattr(_backbones(), name)(**arguments), channels)
    shape = (frames, 3, height, width) if is_2d else (1, 3, frames, height, width)
    return module, torch.randn(shape)


class Classified(torch.nn.Module):
    """A backbone, the mean of its features and a classifier."""

    def __init__(self, backbone: torch.nn.Module, channels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier: torch.nn.Module = torch.nn.Linear(channels, 400)
        if isinstance(backbone, _backbones().X3D):
            hidden = torch.nn.Linear(channels, 2048, bias=False)
            self.classifier = torch.nn.Sequential(
                hidden, torch.nn.ReLU(), torch.nn.Linear(2048, 400)
            )

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.classifier(torch.cat([_pooled(x) for x in _maps(self.backbone(clip))], 1))


def _maps(found: Any) -> list[torch.Tensor]:
    """The last feature maps: those of both paths of SlowFast, the class token of transformers."""
    if isinstance(found, list | tuple) and isinstance(found[-1], list | tuple):  # MViT
        return [found[-1][-1]]
    if isinstance(found, tuple) and len(found) == 2:
        return list(found)
    return [found[-1] if isinstance(found, list | tuple) else found]


def _pooled(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(2).mean(2) if x.ndim > 2 else x


def _backbones() -> Any:
    """mmaction2's backbones; its package lacks a module and imports one by an old name."""
    sys.modules.setdefault("importlib_metadata", importlib.metadata)
    for name in ("drn", "drn.drn"):
        module = types.ModuleType(f"mmaction.models.localizers.{name}")
        module.DRN = type("DRN", (), {})  # type: ignore[attr-defined]
        sys.modules[module.__name__] = module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mmaction.models.backbones as backbones
        import mmaction.models.common  # noqa: F401  registers R(2+1)D's convolution
        from mmengine.registry import init_default_scope
    init_default_scope("mmaction")
    return backbones
