"""Kernels for NVIDIA GPUs: CUDA sources, each beside the Python that launches it."""
