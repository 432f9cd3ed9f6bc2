"""Named points where a test kills the process, to prove that nothing depends on its survival."""

import os
import signal
from pathlib import Path

from services.chassis.settings import SharedSettings


class Failpoints:
    """Kills this process at the n-th hit of a named point, once per folder: the mark it leaves
    there proves that it fired, and keeps the restarted process alive."""

    def __init__(self, settings: SharedSettings) -> None:
        self._left = dict(settings.failpoints)
        self._folder = settings.failpoints_folder or Path()

    def hit(self, name: str) -> None:
        if name not in self._left:
            return
        self._left[name] -= 1
        if self._left[name] > 0:
            return
        del self._left[name]
        try:
            (self._folder / name).touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)
