"""The network family: DG-P3D, dual-head pseudo-3D residual networks with global context."""
