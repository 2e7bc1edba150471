"""A job that does what it is told, in every way a job can end; imports no torch.

It exists so that the whole way from Blender to the engine's process and back can be tried
in seconds, by tests and by `doctor`.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..bridge.errors import UserError
from ..bridge.whole_file import replacing

ENDS = ("done", "user_error", "bug", "memory", "exit", "abort", "hang")
_DEFAULTS: dict[str, Any] = {"steps": 5, "step_s": 0.02, "end": "done", "garbage": False}


def run_job(folder: Path, report: Callable[..., None], settings: dict[str, Any]) -> dict[str, Any]:
    """Take `steps` steps of `step_s` seconds each, then end as `end` says (one of ENDS).

    "done" writes result.txt into the folder. With `garbage` every step prints to standard
    output by all roads that libraries take. Raises UserError for settings it does not know.
    """
    values = {**_DEFAULTS, **settings}
    if values.keys() - _DEFAULTS.keys() or values["end"] not in ENDS:
        raise UserError(
            f"A rehearsal does not know these settings: {settings}.",
            f"Use {', '.join(_DEFAULTS)}; end is one of {', '.join(ENDS)}.",
        )
    for step in range(values["steps"]):
        report("rehearsal", step, values["steps"], f"step {step + 1} of {values['steps']}")
        if values["garbage"]:
            _print_garbage(step)
        time.sleep(values["step_s"])
    report("rehearsal", values["steps"], values["steps"], "last step")
    _end(values["end"])
    with replacing(folder / "result.txt") as file:
        file.write(f"{values['steps']} steps\n".encode())
    return {"result": str(folder / "result.txt"), "steps": values["steps"]}


def _end(end: str) -> None:
    if end == "user_error":
        raise UserError("The rehearsal was told to fail.", "Tell it something else.")
    if end == "bug":
        raise RuntimeError("the rehearsal was told to hit a bug")
    if end == "memory":
        raise MemoryError
    if end == "exit":
        raise SystemExit(3)
    if end == "abort":
        os.abort()
    while end == "hang":
        time.sleep(1.0)


def _print_garbage(step: int) -> None:
    print(f"a stray print in step {step}", flush=True)
    os.write(1, b"bytes straight to descriptor 1\n")
    if os.name != "nt":
        libc = ctypes.CDLL(None)
        libc.puts(b"a line from C")
        libc.fflush(None)
