"""Functions in threads of their own, as processes of one run would call them."""

from __future__ import annotations

import threading

from gm.errors import UserError


def together(*functions, seconds=30):
    """What each function returned, or the UserError that it raised; None of one that takes longer."""
    found = [None] * len(functions)

    def run(place, function):
        try:
            found[place] = function()
        except UserError as error:
            found[place] = error

    threads = [threading.Thread(target=run, args=item, daemon=True) for item in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
    return found
