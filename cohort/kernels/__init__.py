"""One in-memory block to an array or a partial. NumPy, SciPy, Numba and connected-components-3d only."""
