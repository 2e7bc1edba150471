"""python -m engine serve: jobs over standard input and output, for Blender."""

from __future__ import annotations

import argparse
import logging

from ..service.leaving import leave
from ..service.server import Server, guard_standard_streams


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments: everything comes over the wire."""


def run(args: argparse.Namespace) -> int:
    """Serve until Quit or the end of input. Exit code 0, or 1 if a job had to be left behind."""
    incoming, outgoing = guard_standard_streams()
    clean = Server(incoming, outgoing).serve()
    if not clean:
        logging.getLogger(__name__).warning("a job did not stop in time; leaving it")
    leave(0 if clean else 1)  # at once: nobody waits for a thread inside C code, or for torch
