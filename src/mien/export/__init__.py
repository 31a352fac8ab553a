"""From a trained classifier to ONNX files that read uint8 faces, each held to what PyTorch answers."""
