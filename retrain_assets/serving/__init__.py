"""The decision engine and the artefact it serves: numpy, msgspec and onnxruntime, no data frames."""
