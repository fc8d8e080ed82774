"""Kernels in Triton: the portable backend, for GPUs that the compiled library does not serve.

Importing this package needs Triton and registers its ops. Kernels are written for any device that
Triton serves; with TRITON_INTERPRET=1 they run on CPU tensors.
"""

from fractalkern.triton import box_count, fractal_noise, power_iteration  # noqa: F401  # registers the ops
