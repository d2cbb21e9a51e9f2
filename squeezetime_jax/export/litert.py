"""LiteRT (TensorFlow Lite), the runtime of Android, without TensorFlow.

The converter takes the program's StableHLO as text; there is no documented way to it but the one
that Google's own PyTorch converter goes, so its version is pinned.
"""

from pathlib import Path

import jax
import numpy as np
from jaxtyping import UInt8

from squeezetime_jax.export.manifest import INPUT, OUTPUT, Manifest
from squeezetime_jax.export.network import Feeds, fold, input_shape, network
from squeezetime_jax.export.packages import needs, quiet
from squeezetime_jax.model.squeezetime import SqueezeTime

SIGNATURE = "serving_default"


def write(
    model: SqueezeTime,
    path: Path,
    manifest: Manifest,
    calibration: UInt8[np.ndarray, "n t h w 3"] | None = None,
) -> None:
    """Write `path`, for one clip a call, as phones' GPUs require.

    Args:
      model: the network.
      path: where to.
      manifest: of the file. In float16 the weights are halved, and runtimes may compute so; in int8
        clips and logits stay what they are in float32.
      calibration: clips for int8.

    Raises:
      UserError: a package is missing.
    """
    score = network(fold(model, manifest), manifest)
    program = jax.jit(lambda clip: score(clip)).lower(input_shape(manifest, 1))
    with quiet():
        flatbuffer = _convert(program.as_text())
    if manifest.dtype == "int8":
        assert calibration is not None
        flatbuffer = _quantize(flatbuffer, calibration, manifest)
    elif manifest.dtype == "float16":
        flatbuffer = _halve(flatbuffer)
    path.write_bytes(flatbuffer)


def _convert(stablehlo: str) -> bytes:
    needs("litert_converter")
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
            signature_name=SIGNATURE,
            input_names=[INPUT],
            output_names=[OUTPUT],
        )
        converter.run_convert_to_tfl_passes(module, passmanager.PassManager(), config)
        return converter.export_flatbuffer_to_bytes(module.operation)


def _quantize(
    flatbuffer: bytes, clips: UInt8[np.ndarray, "n t h w 3"], manifest: Manifest
) -> bytes:
    """Weights and activations in int8, by the ranges that activations take on clips."""
    needs("ai_edge_quantizer")
    from ai_edge_quantizer import qtyping, quantizer, recipe
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    maker = quantizer.Quantizer(bytearray(flatbuffer), recipe.static_wi8_ai8())
    for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        maker.update_quantization_recipe(".*", end, algorithm_key=AlgorithmName.NO_QUANTIZE)
    with quiet():
        ranges = maker.calibrate({SIGNATURE: Feeds(clips, manifest)})
        return bytes(maker.quantize(ranges).quantized_model)


def _halve(flatbuffer: bytes) -> bytes:
    """Weights in float16."""
    needs("ai_edge_quantizer")
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
    with quiet():
        return bytes(maker.quantize().quantized_model)
