"""Triton kernels for the memory-bound parts of DG-P3D, and the plain PyTorch that defines them.

``reference`` and ``fused`` offer the same functions under the same names; ``norm`` has the types that both
take and ``table`` says, per shape, which of the two to use. Importing this package imports neither: only
``fused`` needs Triton.
"""
