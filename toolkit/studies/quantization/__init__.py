"""The study `quantization`."""
