"""From a torch module or an ONNX file to a file that an engine can open. Knows nothing of data sets, engines or runs."""
