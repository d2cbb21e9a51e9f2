"""Networks as files for phones, CPUs, browsers and other JAX programs: one module a format."""

FORMATS = ("litert", "onnx", "openvino", "stablehlo")
"""The formats; the module of the same name describes each in its `FORMAT`."""
