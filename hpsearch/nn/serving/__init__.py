"""Trained models in files: saving, loading, prediction, ONNX."""
