"""What happened while a schedule ran, a line of JSON for each: faults, operations, ends of runs."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

# As in Jepsen: `info` is an operation of which nobody knows whether it was done.
Outcome = Literal["invoke", "ok", "fail", "info"]


@dataclass
class Journal:
    """Without a file nothing is kept."""

    file: Path | None = None

    def note(self, event: str, **said: Any) -> None:
        if self.file is not None:
            line = json.dumps({"at": time.time(), "event": event, **said}, default=str)
            with self.file.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")

    def operation(self, outcome: Outcome, operation: str, value: Any = None) -> None:
        self.note("operation", type=outcome, f=operation, value=value)
