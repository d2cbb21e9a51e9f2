"""ONNX: the graph written operation by operation from the folded weights.

The graph is small and fixed (convolutions, sums, products, two activations, pooling), so it is
written directly, in ONNX's own channels-first layout: every runtime then sees one operation for
each of the network's, without the transposes that tracing a channels-last program leaves behind.
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np

from squeezetime_jax.export.formats import Format, Run, quiet
from squeezetime_jax.export.manifest import INPUT, OUTPUT, Clips, Manifest
from squeezetime_jax.export.network import Feeds, fold
from squeezetime_jax.model.fused import Tree
from squeezetime_jax.model.squeezetime import SqueezeTime

_OPSET = 17  # old enough for every runtime of recent years, new enough for all that is used
_IR_VERSION = 8


def _write(model: Any, path: Path, manifest: Manifest, calibration: Clips | None) -> None:
    assert isinstance(model, SqueezeTime)
    if calibration is None:
        path.write_bytes(_model(model, manifest).SerializeToString())
        return
    float_file = path.with_name("float.onnx")
    _write(model, float_file, dataclasses.replace(manifest, dtype="float32"), None)
    _quantize(float_file, path, calibration, manifest)


def _model(model: SqueezeTime, manifest: Manifest) -> Any:
    """The network as an `onnx.ModelProto`."""
    from onnx import TensorProto, helper

    graph = _Graph("float16" if manifest.dtype == "float16" else "float32", model.config.pooling)
    _network(graph, fold(model, manifest).weights, manifest)
    batch = manifest.batch or "batch"
    clip = helper.make_tensor_value_info(
        INPUT,
        TensorProto.UINT8 if manifest.uint8 else TensorProto.FLOAT,
        [batch, *manifest.shape],
    )
    scores = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [batch, manifest.num_classes])
    return helper.make_model(
        helper.make_graph(graph.nodes, "squeezetime", [clip], [scores], graph.constants),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="squeezetime_jax",
    )


def _quantize(source: Path, target: Path, clips: Clips, manifest: Manifest) -> None:
    """Weights per channel, activations by the ranges that they take on clips."""
    from onnxruntime import quantization

    class Clips(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._feeds = iter(Feeds(clips, manifest))

        def get_next(self) -> dict | None:
            return next(self._feeds, None)

    with quiet():
        quantization.quantize_static(str(source), str(target), Clips(), per_channel=True)


class _Graph:
    """Nodes and constants as they are added; a value is known by its name."""

    def __init__(self, dtype: str, pooling: str) -> None:
        from onnx import helper, numpy_helper

        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.dtype = np.dtype(dtype)
        self.pool = {"average": "GlobalAveragePool", "max": "GlobalMaxPool"}[pooling]
        self._helper, self._arrays = helper, numpy_helper
        self._numbers = itertools.count()

    def add(self, operation: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node; returns the name of its output."""
        output = output or f"{operation.lower()}_{next(self._numbers)}"
        self.nodes.append(
            self._helper.make_node(operation, list(inputs), [output], output, **attributes)
        )
        return output

    def constant(self, array: Any, dtype: Any = None) -> str:
        """Add an initialiser."""
        name = f"constant_{next(self._numbers)}"
        array = np.ascontiguousarray(np.asarray(array, dtype or self.dtype))
        self.constants.append(self._arrays.from_array(array, name))
        return name

    def conv(self, x: str, kernel: Any, bias: Any = None, stride: int = 1, group: int = 1) -> str:
        """A convolution; the kernel is (height, width, in, out)."""
        kernel = np.asarray(kernel).transpose(3, 2, 0, 1)
        height, width = kernel.shape[2:]
        pads = [height // 2, width // 2] * 2 if group == 1 else [0] * 4
        inputs = [x, self.constant(kernel), *([] if bias is None else [self.constant(bias)])]
        return self.add(
            *("Conv", *inputs),
            kernel_shape=[height, width],
            strides=[stride, stride],
            pads=pads,
            group=group,
        )

    def cast(self, x: str, to: Any, output: str = "") -> str:
        """Change the type of a value."""
        return self.add(
            "Cast", x, to=self._helper.np_dtype_to_tensor_dtype(np.dtype(to)), output=output
        )


def _network(graph: _Graph, weights: Tree, manifest: Manifest) -> None:
    x = graph.add("Transpose", INPUT, perm=[0, 3, 1, 2])  # cheapest while a pixel is a byte
    if manifest.uint8:
        x = graph.cast(x, np.float32)
        scale = np.tile(1 / np.asarray(manifest.std, np.float32), manifest.num_frames)
        mean = np.tile(np.asarray(manifest.mean, np.float32), manifest.num_frames)
        x = graph.add("Sub", x, graph.constant(mean[:, None, None], np.float32))
        x = graph.add("Mul", x, graph.constant(scale[:, None, None], np.float32))
    if graph.dtype != np.float32:
        x = graph.cast(x, graph.dtype)
    x = graph.add("Relu", graph.conv(x, **weights["stem"], stride=2))
    x = graph.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for block in itertools.chain.from_iterable(weights["stages"]):
        x = _block(graph, block, x)
    x = graph.add("Flatten", graph.add("GlobalAveragePool", x))
    head = [graph.constant(weights["head"][name]) for name in ("kernel", "bias")]
    is_last = graph.dtype == np.float32
    x = graph.add("Gemm", x, *head, output=OUTPUT if is_last else "")
    if not is_last:
        graph.cast(x, np.dtype(np.float32), output=OUTPUT)


def _block(graph: _Graph, block: Tree, x: str) -> str:
    if "halving" in block:
        kernel, bias = block["halving"]["kernel"], block["halving"]["bias"]
        x = graph.conv(x, kernel[:, :, None], bias, stride=2, group=kernel.shape[-1])
    shortcut = graph.conv(x, **block["shortcut"]) if "shortcut" in block else x
    if "ctl1" in block:
        y = graph.add("Relu", _middle(graph, block["ctl1"], x))
        y = _middle(graph, block["ctl2"], y)
    else:
        y = graph.add("Relu", graph.conv(x, **block["reduce"]))
        y = graph.add("Relu", _middle(graph, block["ctl"], y))
        y = graph.conv(y, **block["expand"])
    return graph.add("Relu", graph.add("Add", y, shortcut))


def _middle(graph: _Graph, tree: Tree, x: str) -> str:
    """The channel-time learning module (Eq. 3), or what stands in its place."""
    if "plain" in tree:
        return graph.conv(x, **tree["plain"])
    focused = graph.add("Mul", x, _focus(graph, tree["focus"], x)) if "focus" in tree else x
    if "tfc" in tree:
        y = graph.conv(focused, tree["tfc"]["kernel"], tree["shift"])
    else:
        y = graph.constant(np.asarray(tree["shift"])[:, None, None])
    if "ioi" in tree:
        y = graph.add("Add", y, _interaction(graph, tree["ioi"], x, focused))
    return y


def _focus(graph: _Graph, focus: Tree, x: str) -> str:
    """One weight for each sample and channel, (n, c, 1, 1)."""
    pooled = graph.add(graph.pool, x)
    y = graph.add("Relu", graph.conv(pooled, focus["reduce"][None, None], focus["shift"]))
    return graph.add("Sigmoid", graph.conv(y, focus["expand"][None, None]))


def _interaction(graph: _Graph, tree: Tree, x: str, focused: str) -> str:
    """The inter-temporal object interaction branch (Eq. 6)."""
    long = graph.add("Relu", graph.conv(focused, **tree["narrow"]))
    if "position" in tree:
        grid = graph.constant(np.asarray(tree["position"]).transpose(2, 0, 1)[None])
        long = graph.add("Add", long, grid)
    long = graph.add("Relu", graph.conv(long, **tree["interact"]))
    gate = graph.add("Sigmoid", graph.conv(long, **tree["widen"]))
    return graph.add("Mul", graph.conv(x, **tree["short"]), gate)


def _open(path: str, manifest: Manifest, threads: int) -> Run:
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda packed: session.run([OUTPUT], {INPUT: packed})[0]


FORMAT = Format(
    name="onnx",
    suffix=".onnx",
    dtypes=("float32", "float16", "int8"),
    packages={"onnx": "onnx>=1.23,<2", "onnxruntime": "onnxruntime>=1.31,<2"},
    runtime="onnxruntime",
    any_network=False,
    write=_write,
    open=_open,
)
