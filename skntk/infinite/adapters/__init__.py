"""Kernels of the default network for other libraries; `skntk.infinite` imports them on access."""
