"""ONNX graphs as differentiable torch: `reading` opens the file, `translation` builds the graph from the operators beside it."""
