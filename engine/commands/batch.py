"""batch: do many jobs, here or on a Ray cluster, and print a table of the results."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from ..bridge.errors import UserError
from ..bridge.whole_file import whole_file
from ..service import batch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of batch."""
    parser.add_argument(
        "jobs",
        type=Path,
        metavar="JOBS.json",
        help='{"defaults": {...}, "jobs": [{"name", "image", "path", "settings"}, ...]}',
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out") / "batch",
        help="folder of the job folders (default out/batch)",
    )
    parser.add_argument(
        "--workers", type=int, default=1, help="jobs at a time on this machine (default 1)"
    )
    parser.add_argument(
        "--retries", type=int, default=2, help="new starts for a job whose process dies (default 2)"
    )
    parser.add_argument(
        "--ray", default="", metavar="ADDRESS", help="run on Ray: auto, ray://host:10001, or local"
    )
    parser.add_argument(
        "--gpus",
        type=float,
        default=None,
        help="GPUs of a job on Ray (default: 1 where the cluster has any)",
    )
    parser.add_argument(
        "--restart",
        action="store_true",
        help="begin generations whose inputs have changed anew; the earlier result is kept "
        "under a number",
    )


def run(args: argparse.Namespace) -> int:
    """0 when every job is done, 1 when some are not. The table also goes to results.md and
    results.json.
    """
    if args.workers < 1 or args.retries < 0 or (args.gpus is not None and args.gpus < 0):
        raise UserError(
            "workers must be at least 1, retries and gpus not negative.", "Change the numbers."
        )
    requests = batch.read(args.jobs)
    outcomes = []
    for outcome in batch.run(
        requests,
        args.out,
        workers=args.workers,
        retries=args.retries,
        ray=args.ray,
        gpus=args.gpus,
        restart=args.restart,
    ):
        outcomes.append(outcome)
        sys.stderr.write(
            f"[{len(outcomes)}/{len(requests)}] {outcome.name}: {outcome.status} {outcome.error}\n"
        )
    order = {request.name: i for i, request in enumerate(requests)}
    outcomes.sort(key=lambda o: order[o.name])
    text = batch.table(outcomes)
    with whole_file(args.out / "results.md") as temporary:
        temporary.write_text(text, "utf-8")
    with whole_file(args.out / "results.json") as temporary:
        temporary.write_text(json.dumps([asdict(o) for o in outcomes], indent=1) + "\n", "utf-8")
    sys.stdout.write(text)
    return 0 if all(o.status == "done" for o in outcomes) else 1
