"""From face crops to probabilities, by ONNX Runtime or torch."""
