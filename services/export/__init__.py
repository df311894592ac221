"""The encoder contract in ONNX: build, quantise, compare, publish. Nothing else knows onnx."""
