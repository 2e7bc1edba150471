"""One version everywhere, a workflow that runs the README's commands, documents that name real
files.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from engine.bridge.protocol import ENGINE_VERSION

ROOT = Path(__file__).resolve().parents[3]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_there_is_one_version():
    project = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    manifest = tomllib.loads(read("blender_manifest.toml"))["version"]
    newest = re.search(r"^## ([\d.]+)", read("CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    assert project == manifest == ENGINE_VERSION == newest[1]


def test_the_workflow_runs_the_commands_of_the_readme_on_three_systems():
    jobs = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]
    readme = read("README.md")
    systems = jobs["test"]["strategy"]["matrix"]["include"]
    assert {row["os"].split("-")[0] for row in systems} == {"ubuntu", "windows", "macos"}
    for row in systems:
        assert row["generate"] in readme and row["test"] in readme
    for job in jobs.values():
        assert job["timeout-minutes"] <= 90
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step.get("uses", "actions/x@v1"))
    assert any("scripts/make_repository.py" in s.get("run", "") for s in jobs["zip"]["steps"])


def test_the_workflow_fits_the_schema_of_workflows(tmp_path):
    """The published schema, as check-jsonschema ships it; a misspelt key is refused by it."""
    check = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.github-workflows",
    ]
    misspelt = tmp_path / "ci.yml"
    misspelt.write_text(WORKFLOW.read_text(encoding="utf-8").replace("runs-on:", "run-on:", 1))
    assert subprocess.run([*check, WORKFLOW], capture_output=True).returncode == 0
    assert subprocess.run([*check, misspelt], capture_output=True).returncode == 1


def test_the_workflow_installs_the_versions_that_are_pinned():
    pins = tomllib.loads(read("pyproject.toml"))["dependency-groups"]["blender-4.2"]
    found = re.findall(r"(?:bpy|numpy)==[\d.]+", WORKFLOW.read_text(encoding="utf-8"))
    assert found and set(found) <= set(pins)


@pytest.mark.parametrize("document", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_files_that_a_document_names_exist(document):
    """Names with a folder in backticks; `NAME` and other words in capitals stand for the reader's
    own.
    """
    named = re.findall(r"`([\w.{},-]+/[\w./{},-]*)`", read(document))
    absent = []
    for name in named:
        if re.search(r"[A-Z]{3}", name.split("/")[-1].split(".")[0]) and "README" not in name:
            continue
        if name.startswith(("build/", "out/", ".venv")):
            continue
        if not (ROOT / name).exists():
            absent.append(name)
    assert not absent


def test_the_table_of_where_to_change_what_has_twenty_rows():
    table = read("ARCHITECTURE.md").split("## I want to change")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) >= 20
    assert all(re.search(r"`[\w.-]+(/[\w.-]+)*/?`", row.split("|")[2]) for row in rows)
