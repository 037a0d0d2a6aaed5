"""CUDA kernels for the element-wise part of attacks, each with a NumPy reference that is its specification."""
