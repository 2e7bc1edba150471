"""python -m engine serve: jobs over standard input and output, for Blender."""

from __future__ import annotations

import argparse
import logging
import os
import sys

from ..service.server import Server, guard_standard_streams


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments: everything comes over the wire."""


def run(args: argparse.Namespace) -> int:
    """Serve until Quit or the end of input. Exit code 0, or 1 if a job had to be left behind."""
    incoming, outgoing = guard_standard_streams()
    clean = Server(incoming, outgoing).serve()
    if not clean:
        logging.getLogger(__name__).warning("a job did not stop in time; leaving it")
        sys.stderr.flush()
        os._exit(1)  # a thread inside C code would keep the interpreter from ending, or crash it
    return 0
