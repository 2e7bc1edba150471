"""How an engine's process ends: at once, without taking down torch, which takes two seconds."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from ..bridge.errors import Cancelled

INTERRUPT_S = 1.2  # then an interrupted command is ended wherever it is; it promises two seconds
_last_words = ["interrupted; what was finished is kept"]


def leave(code: int) -> NoReturn:
    """End the process with an exit code, after flushing what was said. Nothing else of Python's
    shutdown is run.
    """
    with contextlib.suppress(Exception):
        logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # None, closed, or nobody reads any more
            stream.flush()
    os._exit(code)


def end_soon_after_an_interrupt(code: int) -> None:
    """Ctrl-C raises KeyboardInterrupt as ever; a command that has not ended INTERRUPT_S later is
    ended with `code`.

    What it was writing is not yet under its name, and the next start clears it away.
    """

    def interrupted(number: int, frame: FrameType | None) -> None:
        ignore_interrupts()
        timer = threading.Timer(INTERRUPT_S, _end, [code])
        timer.daemon = True
        timer.start()
        raise KeyboardInterrupt

    with contextlib.suppress(ValueError):  # not in the main thread
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as nohup and "&" ask for
            signal.signal(signal.SIGINT, interrupted)


@contextlib.contextmanager
def last_words(words: str) -> Iterator[None]:
    """Work that is stopped in here ends with these words, as `Cancelled`, also where the interrupt
    is lost (in a destructor, Python only reports it) and the process is ended from outside.
    """
    _last_words.append(words)
    try:
        yield
    except (KeyboardInterrupt, Cancelled) as stop:
        raise Cancelled(str(stop) or words) from None
    finally:
        _last_words.pop()


def ignore_interrupts() -> None:
    """From here on Ctrl-C does nothing: the process is about to end."""
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end(code: int) -> None:
    with contextlib.suppress(Exception):
        sys.stderr.write(f"{_last_words[-1]}\n")
    leave(code)
