"""Puts this folder on the path: on_off.py serves tests in both processes."""
