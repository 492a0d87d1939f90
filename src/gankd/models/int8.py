"""Static quantisation of an exported graph to 8-bit whole numbers, by onnxruntime."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from gankd.models.exported import Pixels, quiet, require_onnx

LAYERS = ["Conv", "Gemm", "MatMul"]
"""Operations that compute in int8: convolutions and linear layers."""
BATCH = 64


def to_int8(graph: bytes, images: Pixels) -> bytes:
    """Graph whose convolutions and linear layers compute in int8, otherwise as before.

    Weights have a scale per channel, activations one per tensor that covers their range on `images`. Weights have 7 of
    the 8 bits: processors without dot products of bytes (AVX2) add two products in 16 bits, where those of 8-bit
    weights overflow, which made errors up to 40 times larger. Cropping, resampling and the softmax stay in float32.

    Args:
        graph: as `to_onnx` returns it.
        images: uint8 (N, C, H, W), training images for calibration.

    Raises:
        ModelError: the extra onnx is missing.
    """
    onnx, quantization = require_onnx("onnx"), require_onnx("onnxruntime.quantization")
    model = onnx.load_model_from_string(graph)
    weights = {tensor.name for tensor in model.graph.initializer}
    computed = [  # products of two computed tensors: the resampling
        node.name for node in model.graph.node if node.op_type == "MatMul" and not weights & set(node.input)
    ]

    class Calibration(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.batches: Iterator[Pixels] = (images[at : at + BATCH] for at in range(0, len(images), BATCH))

        def get_next(self) -> dict[str, Pixels] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"image": batch}

    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "int8.onnx"
        quantization.quantize_static(
            model,
            path,
            Calibration(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=LAYERS,
            nodes_to_exclude=computed,
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        return path.read_bytes()
