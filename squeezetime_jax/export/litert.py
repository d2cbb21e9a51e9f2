"""LiteRT (TensorFlow Lite), the runtime of Android, without TensorFlow.

The converter takes the program's StableHLO as text. Its interface is the one that Google's own
PyTorch converter uses and is not documented, so its version is pinned.
"""

from pathlib import Path
from typing import Any

import jax

from squeezetime_jax.export.formats import Format, Run, quiet
from squeezetime_jax.export.manifest import INPUT, OUTPUT, Clips, Manifest
from squeezetime_jax.export.network import Feeds, input_shape, network

_SIGNATURE = "serving_default"


def _write(model: Any, path: Path, manifest: Manifest, calibration: Clips | None) -> None:
    """A file for one clip a call, as phones' GPUs require.

    In float16 the weights are halved, and runtimes may compute so; in int8 clips and logits stay
    what they are in float32.
    """
    program = jax.jit(network(model, manifest)).lower(input_shape(manifest, 1))
    with quiet():
        flatbuffer = _convert(program.as_text())
        if calibration is not None:
            flatbuffer = _quantize(flatbuffer, Feeds(calibration, manifest))
        elif manifest.dtype == "float16":
            flatbuffer = _halve(flatbuffer)
    path.write_bytes(flatbuffer)


def _convert(stablehlo: str) -> bytes:
    from litert_converter.mlir import ir, passmanager
    from litert_converter.mlir._mlir_libs import converter_api_ext as converter

    context = ir.Context()
    converter.prepare_mlir_context(context)
    with context:
        module = ir.Module.parse(stablehlo)
        config = converter.ConvertToTFLConfig()
        config.model_origin_framework = "JAX"
        converter.set_signature(
            module.operation,
            signature_name=_SIGNATURE,
            input_names=[INPUT],
            output_names=[OUTPUT],
        )
        converter.run_convert_to_tfl_passes(module, passmanager.PassManager(), config)
        return converter.export_flatbuffer_to_bytes(module.operation)


def _quantize(flatbuffer: bytes, feeds: Feeds) -> bytes:
    """Weights and activations in int8, by the ranges that activations take on clips."""
    from ai_edge_quantizer import qtyping, quantizer, recipe
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    maker = quantizer.Quantizer(bytearray(flatbuffer), recipe.static_wi8_ai8())
    for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        maker.update_quantization_recipe(".*", end, algorithm_key=AlgorithmName.NO_QUANTIZE)
    ranges = maker.calibrate({_SIGNATURE: feeds})
    return bytes(maker.quantize(ranges).quantized_model)


def _halve(flatbuffer: bytes) -> bytes:
    """Weights in float16."""
    from ai_edge_quantizer import qtyping, quantizer
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    half = qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(
            num_bits=16, dtype=qtyping.TensorDataType.FLOAT
        ),
        compute_precision=qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )
    maker = quantizer.Quantizer(bytearray(flatbuffer))
    for name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
        operation = qtyping.TFLOperationName[name]
        maker.update_quantization_recipe(".*", operation, half, AlgorithmName.FLOAT_CASTING)
    return bytes(maker.quantize().quantized_model)


def _open(path: str, manifest: Manifest, threads: int) -> Run:
    from ai_edge_litert import interpreter

    with quiet():
        model = interpreter.Interpreter(model_path=path, num_threads=threads)
        signature = model.get_signature_runner()
    return lambda packed: signature(**{INPUT: packed})[OUTPUT]


FORMAT = Format(
    name="litert",
    suffix=".tflite",
    dtypes=("float32", "float16", "int8"),
    packages={
        "litert_converter": "litert-converter>=0.5,<0.6",
        "ai_edge_quantizer": "ai-edge-quantizer>=0.10,<0.11",
        "ai_edge_litert": "ai-edge-litert>=2.3,<2.4",
    },
    runtime="ai_edge_litert.interpreter",
    any_network=True,
    batch=1,
    write=_write,
    open=_open,
)
