"""Optional C kernels: built by ``python -m tinyflow.native``, never required."""
