"""python -m engine weights: what optional models there are, under which licence, and fetching
them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from ..bridge import speeds
from ..bridge.errors import UserError
from ..bridge.estimate import duration
from ..bridge.settings import CHOICE_TEXT
from ..models import download, registry, weights

if TYPE_CHECKING:
    from ..models import choice


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """list | show | download | verify | recommend | where."""
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a line instead of text"
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="all models: size, whether it is here, licence")
    for action, text in (
        ("show", "one model in full"),
        ("download", "fetch a model; continues where an earlier attempt stopped"),
        ("verify", "read a model's files and compare their checksums"),
    ):
        actions.add_parser(action, help=text).add_argument(
            "name", metavar="NAME", help="a name from the list"
        )
    actions.choices["download"].add_argument(
        "--accept-licence",
        action="store_true",
        help="needed for models that may not be used commercially without further ado",
    )
    recommend = actions.add_parser(
        "recommend", help="the best prior and depth model: with what is here, and with a download"
    )
    recommend.add_argument(
        "--commercial",
        action="store_true",
        help="only weights that may be used commercially without further ado",
    )
    recommend.add_argument(
        "--priority",
        choices=tuple(CHOICE_TEXT["priority"]),
        default="balanced",
        help="what to weigh, as the setting of that name does",
    )
    where = actions.add_parser(
        "where", help=f"the weights folder ({weights.FOLDER_VARIABLE} chooses it), or a model's"
    )
    where.add_argument("name", metavar="NAME", nargs="?", help="a name from the list")


def run(args: argparse.Namespace) -> int:
    """Do what `args.action` says. Exit code 1 if `verify` finds something wrong, else 0."""
    return {
        "list": _list,
        "show": _show,
        "download": _download,
        "verify": _verify,
        "recommend": _recommend,
        "where": _where,
    }[args.action](args)


def facts(name: str) -> dict[str, object]:
    """What the list and the add-on show of a model."""
    entry = weights.known(name)
    absent = weights.missing(name)
    return {
        "name": name,
        "title": entry.title,
        "kind": entry.kind,
        "size_gb": entry.size_gb,
        "licence": entry.licence,
        "commercial_use": entry.commercial_use,
        "present": not absent,
        "folder": str(weights.folder() / name),
        "page": f"{download.endpoint()}/{entry.repository}",
        "sha256": entry.sha256 if absent else weights.checksums(name),
    }


def _list(args: argparse.Namespace) -> int:
    for name in registry.WITH_FILES:
        data = facts(name)
        if args.json:
            print(json.dumps(data))
        else:
            use = (
                "commercial use: yes"
                if data["commercial_use"]
                else "commercial use: NO, or with conditions"
            )
            print(
                f"{name:26} {data['size_gb']:7.3g} GB  {'here' if data['present'] else '-':4}  "
                f"{use}; {data['licence']}"
            )
    return 0


def _show(args: argparse.Namespace) -> int:
    data = facts(args.name)
    if args.json:
        print(json.dumps(data))
    else:
        for key, value in data.items():
            print(f"{key.replace('_', ' ')}: {_plain(value)}")
    return 0


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return (
            ", ".join(f"{file} {digest}" for file, digest in value.items())
            or "none known before the download; the hub tells it then"
        )
    return (
        {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    )


def _download(args: argparse.Namespace) -> int:
    from ..models import choice

    entry = weights.known(args.name)
    if not entry.commercial_use and not args.accept_licence:
        raise UserError(
            f"{entry.title}: {entry.licence}.",
            "Read the licence; to accept it, add --accept-licence.",
        )
    if not args.json:
        sys.stderr.write(f"{entry.title}, about {entry.size_gb:g} GB. {entry.licence}.\n")
    home = download.download(args.name, _Progress(args.json))
    with contextlib.suppress(OSError):  # the panel's price is the old one then
        choice.weights_changed()
    found = {"done": True, "name": args.name, "folder": str(home)}
    print(json.dumps(found) if args.json else home)
    return 0


class _Progress:
    """Shows bytes at most four times a second: a line on a terminal, JSON lines for the add-on."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._last = 0.0

    def __call__(self, stage: str, done: int, total: int, text: str) -> None:
        now = time.monotonic()
        if now - self._last < 0.25 and done < total:
            return
        self._last = now
        if self._as_json:
            print(
                json.dumps({"stage": stage, "done": done, "total": total, "text": text}), flush=True
            )
        elif sys.stderr.isatty():
            sys.stderr.write(
                f"\r{done / 1e9:7.2f} of {total / 1e9:.2f} GB  {text[-50:]:50}"
                + ("\n" if done >= total else "")
            )


def _verify(args: argparse.Namespace) -> int:
    problems = weights.verify(args.name)
    if args.json:
        print(
            json.dumps(
                {
                    "name": args.name,
                    "ok": not problems,
                    "problems": problems,
                    "checked": weights.verifiable(args.name),
                }
            )
        )
    elif problems:
        print("\n".join(f"{args.name}: {problem}" for problem in problems))
    elif weights.verifiable(args.name):
        print(f"{args.name}: all checksums are right")
    else:
        print(f"{args.name}: all files are there; no checksum of them is known")
    return 1 if problems else 0


def _recommend(args: argparse.Namespace) -> int:
    from ..models import choice, memory
    from ..models.device import card, tera

    device = card()
    cuda, name = ("cpu", "") if device is None else ("cuda", device.name)
    free = memory.free_bytes("cuda") if cuda == "cuda" else None
    wish = choice.Wish(args.priority, args.commercial, tera=tera(cuda))
    fitting = choice.suitable(free, wish)
    here, best = choice.best_here(free, wish), fitting[0]
    fetch = [name for name in best.weights if weights.missing(name)]
    depth = choice.best_depth(commercial=args.commercial)
    best_depth = next(
        name
        for name in registry.DEPTHS
        if weights.known(name).commercial_use or not args.commercial
    )
    if args.json:
        gib = None if free is None else free / memory.GIB
        print(
            json.dumps(
                {
                    "here": here,
                    "best": best.name,
                    "download": fetch,
                    "gpu_gib": gib,
                    "depth": depth,
                    "best_depth": best_depth,
                    "priority": args.priority,
                    "fitting": [_weighed(row, wish, name) for row in fitting],
                }
            )
        )
        return 0
    print(
        "GPU memory: "
        f"{'none that can be used' if free is None else f'{free / memory.GIB:.1f} GiB free'}"
    )
    print(f"with what is here: --prior {here} --depth {depth}")
    if best.name != here:
        print(f"after a download of {', '.join(fetch)}: --prior {best.name}")
    if best_depth != depth:
        print(f"after a download of {best_depth}: --depth {best_depth}")
    if len(fitting) > 1:
        print(f"\nAll that fit, by {args.priority}; a segment of at most 25 frames as trained:")
    for row in fitting if len(fitting) > 1 else []:
        data = _weighed(row, wish, name)
        time = "" if data["seconds"] is None else duration(data["seconds"])
        source = f"from figures {'measured on an H100' if row.measured else 'reckoned'}"
        source = "as the last job with it took here" if data["took_here"] else source
        lacking = data["download_gb"]
        print(
            f"  {row.name:24} {time:>10} {data['gib']:5.1f} GiB  "
            f"{f'{lacking:.3g} GB to fetch' if lacking else 'here':18} "
            f"commercial use: {'yes' if data['commercial_use'] else 'NO, or with conditions'}"
            f"{f'; time {source}' if time else ''}"
        )
    return 0


def _weighed(row: registry.Model, wish: choice.Wish, card: str) -> dict[str, Any]:
    """What is weighed of a prior; seconds only where the card is known and something is reckoned,
    and as the last job with it took on the `card` of this name, if one did.
    """
    from ..models import choice

    lacking = [name for name in row.weights if weights.missing(name)]
    known = wish.tera is not None and row.operations > 0
    height, width = row.trained
    frames_mp = min(25, row.most_frames) * width * height / 1e6
    took = speeds.segment_seconds(row.name, card, frames_mp, row.steps) if known else None
    return {
        "name": row.name,
        "seconds": took or (choice.seconds(row, wish) if known else None),
        "took_here": took is not None,
        "measured": row.measured,
        "gib": registry.needed_gib(row, wish.size),
        "download_gb": round(sum(weights.known(name).size_gb for name in lacking), 3),
        "commercial_use": choice.free_to_use(row),
    }


def _where(args: argparse.Namespace) -> int:
    if args.name is None:
        print(weights.folder())
    else:
        weights.known(args.name)
        print(weights.folder() / args.name)
    return 0
