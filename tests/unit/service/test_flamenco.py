"""The Flamenco job type: what it compiles to is what our command line accepts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.__main__ import build_parser
from engine.bridge.errors import UserError
from engine.commands.render import frame_numbers

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "docs" / "flamenco" / "scene_splatter.js"

# The few things that a Flamenco Manager gives to a job type, as its documentation names them,
# writing down what is asked of them.
_MANAGER = """
const fs = require('fs'), nodePath = require('path');
const tasks = [];
const { join, dirname, basename, parse } = nodePath.posix;
global.path = { join, dirname, basename, stem: (p) => parse(p).name };
global.author = {
  Task: (name, type) => ({
    name, type, commands: [], dependencies: [],
    addCommand(c) { this.commands.push(c); },
    addDependency(t) { this.dependencies.push(t.name); },
  }),
  Command: (name, parameters) => ({ name, parameters }),
};
global.frameChunker = (frames, size) => {
  const [first, last] = frames.split('-').map(Number), chunks = [];
  for (let i = first; i <= last; i += size) {
    const end = Math.min(i + size - 1, last);
    chunks.push(i === end ? `${i}` : `${i}-${end}`);
  }
  return chunks;
};
const settings = JSON.parse(process.argv[2]);
const source = fs.readFileSync(process.argv[1], 'utf8') + '; [JOB_TYPE, compileJob]';
const [type, compile] = (0, eval)(source);
for (const s of type.settings) {
  if (!(s.key in settings) && 'default' in s) settings[s.key] = s.default;
}
compile({ settings, addTask: (t) => tasks.push(t) });
console.log(JSON.stringify({ type, tasks }));
"""


def _compile(**settings) -> dict:
    if shutil.which("node") is None:
        pytest.skip("Node.js is not installed")
    done = subprocess.run(
        ["node", "-e", _MANAGER, str(SCRIPT), json.dumps(settings)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_each_picture_becomes_a_task_and_its_frames_wait_for_it():
    tasks = _compile(
        images="/in/a.png; /other/a.png", output="/jobs", render="exr", frames="1-25", chunk_size=10
    )["tasks"]
    assert [t["name"] for t in tasks] == [
        "make a",
        "render a 1-10",
        "render a 11-20",
        "render a 21-25",
        "make a",
        "render a_2 1-10",
        "render a_2 11-20",
        "render a_2 21-25",
    ]
    assert all(
        t["dependencies"] == ([] if t["name"].startswith("make") else ["make a"]) for t in tasks
    )


def test_every_command_is_one_that_our_parser_takes():
    tasks = _compile(
        images="/in/a.png",
        output="/jobs",
        render="multilayer",
        path="orbit:20",
        extra_args="--seed 3",
        width=640,
    )["tasks"]
    for task in tasks:
        (command,) = task["commands"]
        assert (
            command["name"] == "exec" and command["parameters"]["exe"] == "{scene_splatter_python}"
        )
        flag, _, root, *words = command["parameters"]["args"]
        assert (flag, root) == ("-c", "{scene_splatter_root}")
        args = build_parser(words[0]).parse_args(words)
        if words[0] == "generate":
            assert str(args.image) == "/in/a.png" and args.resume and args.setting_seed == 3
        else:
            assert (
                args.scene == "/jobs/a/scene.ply"
                and args.kind == "multilayer"
                and args.width == 640
            )
            assert frame_numbers(args.frames, 25)


def test_the_start_line_finds_the_engine_from_anywhere(tmp_path):
    command = _compile(images="/in/a.png", output="/jobs")["tasks"][0]["commands"][0]["parameters"][
        "args"
    ]
    done = subprocess.run(
        [sys.executable, command[0], command[1], str(ROOT), "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.startswith("scene-splatter"), done.stderr


def test_frames_may_be_named_in_every_way():
    assert frame_numbers("1-3,7", 9) == [0, 1, 2, 6]
    assert frame_numbers("2-8x3", 9) == [1, 4, 7]
    assert frame_numbers(None, 3) == [0, 1, 2]
    for wrong in ("0", "4-2", "1,,2", "1-99", "a", "1-5x0"):
        with pytest.raises(UserError):
            frame_numbers(wrong, 9)
