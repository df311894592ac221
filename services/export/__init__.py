"""The encoder contract in ONNX: build, quantise, evaluate, publish. Nothing else knows onnx and onnxruntime."""
