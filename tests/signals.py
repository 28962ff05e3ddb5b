"""Programs under test that heed the signals sent to them."""

import signal


def heed():
    """For `subprocess.Popen(preexec_fn=…)`: what starts the tests in the background (nohup, a shell's &) ignores some
    signals, and a program hands that on to its children."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
