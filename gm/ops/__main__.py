"""`python -m gm.ops`: what runs on this machine, and why."""

from gm import ops

print(ops.describe(ops.device(), ops.version()))
