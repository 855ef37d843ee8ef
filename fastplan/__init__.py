"""fastplan: optimization planning for 3D ConvNets.

A `ClipSpec` says which frames; a `Trainer` turns clips into an accuracy curve; `search` walks a `StateGraph`
with a `measure` function and returns a `Plan`. See docs/ for the guide and `fastplan --help` for the commands.
"""

__version__ = "0.1.0"
