"""The one reader of ONNX files: what a graph takes, gives and computes in, and which files belong to it."""

from edgeproof.onnx_files.files import files_of, hash_model, size_of
from edgeproof.onnx_files.loading import load_model, opset_of, parse_model, tensor_array
from edgeproof.onnx_files.summary import GraphSummary, Signature, ValueInfo, read_onnx, summarize

__all__ = [
    "GraphSummary", "Signature", "ValueInfo", "files_of", "hash_model", "load_model", "opset_of", "parse_model", "read_onnx",
    "size_of", "summarize", "tensor_array",
]  # fmt: skip
