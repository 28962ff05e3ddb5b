"""`python -m gm.ops`: what runs on this machine, and why."""

import os

from gm import ops
from gm.ops import float32, table

chip = float32.ascend_chip() if ops.device() == "Ascend" else ""
forms = table.asked_forms(os.environ.get("SVD_FORMS", ""))
print(ops.describe(ops.device(), ops.version(), ops.compiled_library() is not None, chip, forms))
