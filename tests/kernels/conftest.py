"""Puts this folder on the path: two_blocks.py serves tests in both processes."""
