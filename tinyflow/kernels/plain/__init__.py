"""Plain array code, right for every dtype, on NumPy and CuPy."""
