"""Networks for video: DG-P3D and those it is compared with, behind one interface."""
