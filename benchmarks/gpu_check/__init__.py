"""What a GPU makes of fastplan, in one command: correctness, operators, inference, NVDEC, whole training steps.

A stage is a list of units; each stage runs in processes of its own (`worker`), watched by `supervise`. Whatever a unit
finds is written to a journal at once, so that a crash, a hang or the end of the time costs one unit.
"""
