"""`python -m gm.ops`: what runs on this machine, and why."""

from gm import ops
from gm.ops import native

print(ops.describe(ops.device(), ops.version(), native.library() is not None))
