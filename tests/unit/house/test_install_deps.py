"""The installer: what it does with an environment in any state. Builds of torch:
test_torch_moves.py.

Environments are real ones (venv makes them), filled with a wheel that is made here, so that
no test needs a network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import install_deps
from engine.bridge.errors import UserError
from tests.dummy_wheels import wheel

ROOT = Path(__file__).resolve().parents[3]
PINS = install_deps.read_pins(ROOT / "pyproject.toml")


def test_everything_is_pinned_exactly_and_once():
    for pin in [
        *PINS.engine,
        *PINS.constraints,
        *(p for group in [*PINS.groups.values(), *PINS.extras.values()] for p in group),
    ]:
        name, equal, version = pin.partition("==")
        assert name and equal and version and version[0].isdigit() and "*" not in version, pin
    names = [
        pin.split("==")[0].lower().replace("_", "-")
        for pin in [*PINS.engine, *PINS.groups["dev"], *PINS.constraints]
    ]
    assert len(names) == len(set(names))
    assert "torch==2.13.0" in PINS.engine


def test_the_constraints_cover_what_the_packages_here_need():
    """Nothing in this environment is at a version that pyproject.toml does not name."""
    import importlib.metadata

    if "torch" not in {d.name for d in importlib.metadata.distributions()}:
        pytest.skip("not the engine's environment")
    pinned = {
        p.partition("==")[0].lower().replace("_", "-"): p.partition("==")[2]
        for p in [*PINS.engine, *PINS.groups["dev"], *PINS.constraints]
    }
    installed = {
        d.name.lower().replace("_", "-"): d.version.split("+")[0]
        for d in importlib.metadata.distributions()
    }
    assert {n: (v, pinned[n]) for n, v in installed.items() if n in pinned and pinned[n] != v} == {}


NO_PINS = install_deps.Pins(["tiny==1.0"], {}, {}, [])


class Silent(install_deps.Told):
    """Collects what the user would read."""

    def __init__(self) -> None:
        super().__init__(as_json=False)
        self.lines: list[str] = []

    def __call__(self, text, stage="install", done=0, total=0, **more):
        self.lines.append(text)

    def detail(self, line):
        self.lines.append(line)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """One real environment with the wheel in it; making one takes seconds, so most tests work on a
    copy.
    """
    folder = tmp_path_factory.mktemp("ä b é")
    (folder / "wheels").mkdir()
    wheel(folder / "wheels")
    with pytest.MonkeyPatch.context() as patch:
        only_these_wheels(patch, folder / "wheels")
        target = install_deps.Environment(
            folder / ".venv", ["tiny==1.0"], "cpu", Path(sys.executable), Silent(), NO_PINS
        )
        assert not target.complete()
        make(target)
    return folder


@pytest.fixture
def target(prepared, tmp_path, monkeypatch):
    """An environment to be, in a folder with spaces and letters beyond ASCII; pip sees only the
    wheels made here.
    """
    shutil.copytree(prepared / "wheels", tmp_path / "wheels")
    only_these_wheels(monkeypatch, tmp_path / "wheels")
    folder = tmp_path / "ö c ñ" / ".venv"
    return install_deps.Environment(
        folder, ["tiny==1.0"], "cpu", Path(sys.executable), Silent(), NO_PINS
    )


@pytest.fixture
def made(target, prepared):
    """A complete environment (a copy: the interpreter finds its home by the file beside it)."""
    shutil.copytree(prepared / ".venv", target.folder, symlinks=True)
    assert target.complete() and value_in(target) == "1.0"
    return target


def only_these_wheels(patch, folder: Path) -> None:
    for name in list(os.environ):
        if name.startswith("PIP_"):
            patch.delenv(name)
    patch.setenv("PIP_NO_INDEX", "1")
    patch.setenv("PIP_CONFIG_FILE", os.devnull)
    patch.setenv("PIP_FIND_LINKS", folder.as_uri())


def make(target) -> None:
    target.prepare()
    target.install()
    target.seal()


def value_in(target) -> str:
    told = subprocess.run(
        [target.python, "-c", "import tiny; print(tiny.VALUE)"],
        capture_output=True,
        text=True,
        check=False,
    )
    return told.stdout.strip()


def site_of(target) -> Path:
    return next(
        iter(
            [
                *target.folder.glob("lib/python3*/site-packages"),
                *target.folder.glob("Lib/site-packages"),
            ]
        )
    )


def test_a_complete_environment_is_used_again(made):
    (made.folder / "keep").touch()
    make(made)
    assert made.complete() and (made.folder / "keep").exists()


def test_what_has_more_than_is_asked_for_is_complete_too(made, tmp_path):
    """The engine's environment after --dev serves a run without --dev."""
    wheel(tmp_path / "wheels", name="tool")
    made.requirements = ["tiny==1.0", "tool==1.0"]
    assert not made.complete()
    make(made)
    made.requirements = ["tiny==1.0"]
    assert made.complete()
    made.build = "cu130"
    assert not made.complete()


def test_other_pins_are_installed_into_the_same_environment(made, tmp_path):
    wheel(tmp_path / "wheels", version="2.0")
    made.requirements = ["tiny==2.0"]
    assert not made.complete()
    (made.folder / "keep").touch()
    make(made)
    assert made.complete() and value_in(made) == "2.0" and (made.folder / "keep").exists()


def test_an_interruption_before_the_seal_is_gone_on_from(made):
    made.prepare()
    made.install()
    assert not made.complete()  # e.g. the power failed here
    (made.folder / "keep").touch()
    make(made)
    assert (
        made.complete() and (made.folder / "keep").exists()
    )  # nothing was broken, so nothing was thrown away


def harm_it(target, how: str) -> None:
    site = site_of(target)
    if how == "no RECORD":  # pip writes it last
        (site / "tiny-1.0.dist-info" / "RECORD").unlink()
    elif how == "file missing":
        (site / "tiny.py").unlink()
    elif how == "library cut":
        (site / "tiny_data" / "kernel.so").write_bytes(b"not")
    elif how == "left over":  # as an interruption leaves it: without the seal
        (site / "~iny").mkdir()
        (target.folder / install_deps.STAMP).unlink()
    elif how == "list of zeros":  # as a failed power leaves files
        record = site / "tiny-1.0.dist-info" / "RECORD"
        record.write_bytes(bytes(record.stat().st_size))
    elif how == "list of nonsense":
        (site / "tiny-1.0.dist-info" / "RECORD").write_text("tiny.py,sha256=x,many\n")
    elif how == "file emptied":
        (site / "tiny.py").write_bytes(b"")
    elif how == "no interpreter":
        target.python.unlink()
    elif how == "dead interpreter":
        target.python.unlink()
        shutil.copy(shutil.which("false") or "/bin/false", target.python)


@pytest.mark.parametrize(
    "how",
    [
        "no RECORD",
        "list of zeros",
        "list of nonsense",
        "file missing",
        "file emptied",
        "library cut",
        "left over",
        "no interpreter",
        "dead interpreter",
    ],
)
def test_harm_is_noticed(made, how):
    assert install_deps.damage(made.folder) == ""
    harm_it(made, how)
    assert install_deps.damage(made.folder)
    assert not made.complete()


def test_what_a_running_program_held_open_is_no_harm_and_goes_with_the_next_installation(made):
    """Windows: pip puts the old package aside and cannot delete the libraries in use."""
    (site_of(made) / "~iny").mkdir()
    (made.folder / "keep").touch()
    assert made.complete()
    make(made)
    assert made.complete() and (made.folder / "keep").exists()
    assert not (site_of(made) / "~iny").exists()


@pytest.mark.parametrize("name", ["PIP_USER", "PIP_TARGET", "PIP_PREFIX"])
def test_pips_settings_that_lead_elsewhere_do_not_count(made, monkeypatch, tmp_path, name):
    monkeypatch.setenv(name, "1" if name == "PIP_USER" else str(tmp_path / "elsewhere"))
    wheel(tmp_path / "wheels", version="2.0")
    made.requirements = ["tiny==2.0"]
    make(made)
    assert value_in(made) == "2.0" and not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            PermissionError(13, "Permission denied", "/x/.venv/lib"),
            "/x/.venv/lib cannot be changed",
        ),
        (OSError(28, "No space left on device", "/x/y"), "disk of /x/y is full"),
        (NotADirectoryError(20, "Not a directory", "/x/.venv"), "/x/.venv: Not a directory"),
    ],
)
def test_what_the_system_refuses_is_a_sentence_and_no_traceback(
    tmp_path, monkeypatch, capsys, error, words
):
    def refuse(*_):
        raise error

    monkeypatch.setattr(install_deps, "install_engine", refuse)
    assert install_deps.main(["--env", str(tmp_path / "e"), "--json"]) == 1
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["ok"] is False and words in told["text"] and "again" in told["text"]


def test_an_environment_that_is_a_file_is_said_so(tmp_path, monkeypatch, capsys):
    (tmp_path / "e").write_text("a file")
    only_these_wheels(monkeypatch, tmp_path)
    monkeypatch.setattr(install_deps, "check_space", lambda folder, needed_gb: None)
    monkeypatch.setattr(install_deps, "find_index", lambda *_: install_deps.DEFAULT_INDEX)
    assert install_deps.main(["--env", str(tmp_path / "e"), "--cuda", "cpu"]) == 1
    assert "Name another folder with --env" in capsys.readouterr().out
    assert (tmp_path / "e").read_text() == "a file"


def test_windows_paths_that_would_be_too_long_are_said_before_anything_is_made():
    """PyTorch's wheel for Windows has a licence 167 characters below site-packages, 173 with the
    name of a build.
    """
    blender = (
        r"C:\Users\Jane\AppData\Roaming\Blender Foundation\Blender\5.2\extensions\.user"
        r"\user_default\scene_splatter\engine"
    )
    with pytest.raises(UserError, match="too long a path") as refusal:
        install_deps.check_length(Path(blender), False)
    most = int(refusal.value.hint.split()[-2])
    assert "LongPathsEnabled" in refusal.value.hint and "--env" in refusal.value.hint
    install_deps.check_length(Path("C:" + "x" * (most - 2)), False)
    with pytest.raises(UserError):
        install_deps.check_length(Path("C:" + "x" * (most - 1)), False)
    install_deps.check_length(Path(blender), True)
    if sys.platform != "win32":
        assert install_deps.takes_long_paths()


@pytest.mark.parametrize(
    ("system", "processor", "is_64_bit", "words"),
    [
        ("Windows", "AMD64", False, "32 bits"),
        ("Darwin", "x86_64", True, "Rosetta"),
        ("Windows", "ARM64", True, "x64"),
        ("Darwin", "arm64", True, "macOS 14"),
        ("Linux", "x86_64", True, "3.11 to 3.13"),
    ],
)
def test_where_there_is_no_wheel_the_right_python_is_named(system, processor, is_64_bit, words):
    assert words in install_deps.other_python(system, processor, is_64_bit)


def test_a_changed_certificate_file_is_no_harm(made):
    (site_of(made) / "tiny.py").write_text("VALUE = 'changed on purpose'\n")
    assert made.complete()


def test_a_broken_environment_is_made_anew(made):
    harm_it(made, "no RECORD")
    (made.folder / "keep").touch()
    make(made)
    assert made.complete() and value_in(made) == "1.0"
    assert not (made.folder / "keep").exists()
    assert any("broken" in line for line in made.told.lines)


def test_a_process_killed_while_making_the_environment_leaves_no_seal_and_is_mended(target):
    target.folder.parent.mkdir(parents=True)
    target.folder.mkdir()
    (target.folder / install_deps.MARKER).touch()
    (target.folder / "pyvenv.cfg").write_text("home = /nowhere\n")
    make(target)
    assert target.complete()


def test_a_folder_that_somebody_else_made_is_left_alone(target):
    target.folder.mkdir(parents=True)
    precious = target.folder / "thesis.txt"
    precious.write_text("ten years")
    with pytest.raises(UserError, match="not made by this program"):
        make(target)
    assert precious.read_text() == "ten years" and os.listdir(target.folder) == ["thesis.txt"]


def test_a_python_that_cannot_make_environments_is_a_user_error_with_the_remedy(target, tmp_path):
    false = shutil.which("false")
    if false is None:
        pytest.skip("needs the program false")
    target.creator = Path(false)
    with pytest.raises(UserError) as refusal:
        target.prepare()
    assert "python3-venv" in refusal.value.hint


def test_a_python_without_ensurepip_borrows_pip(target, tmp_path, monkeypatch):
    """As Debian's: `-m venv` fails, `-m venv --without-pip` works, and the interpreter has a pip of
    its own.
    """
    if os.name == "nt":
        pytest.skip("the stand-in is a shell script")
    real = Path(sys.executable)
    crippled = tmp_path / "python-without-ensurepip"
    crippled.write_text(
        '#!/bin/sh\ncase "$*" in *--without-pip*) ;; *"-m venv"*) echo "ensurepip is not '
        f'available"; exit 1;; esac\nexec "{real}" "$@"\n'
    )
    crippled.chmod(0o755)
    bundled = next(Path(__import__("ensurepip").__file__).parent.glob("_bundled/pip-*.whl"))
    shutil.copy(bundled, tmp_path / "wheels")
    target.creator = crippled
    make(target)
    assert target.complete() and value_in(target) == "1.0"


@pytest.mark.parametrize(
    ("requirement", "words"),
    [
        ("missing-package==1.0", "no ready-made missing-package==1.0"),
        ("tiny==7.0", "no ready-made tiny==7.0"),
    ],
)
def test_a_package_that_is_not_there_is_named(made, requirement, words):
    made.requirements = [requirement]
    made.prepare()
    with pytest.raises(UserError, match=words):
        made.install()
    assert not made.complete()


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on "
            "device",
            "disk is full",
        ),
        (
            "WARNING: Retrying: NewConnectionError: [Errno -2]\nERROR: No matching distribution "
            "found for torch==2.13.0",
            "cannot be reached",
        ),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]", "certificate"),
        (
            "ERROR: Could not install packages due to an OSError: [Errno 13] Permission denied: "
            "'x'",
            "cannot be written",
        ),
        (
            "ERROR: Could not install packages due to an OSError: [Errno 2] No such file or "
            "directory: 'C:\\x'\nHINT: This error might have occurred since this system does not "
            "have Windows Long Path support enabled.",
            "longer than this system allows",
        ),
        (
            "ERROR: Cannot install torch==2.13.0 because these package versions have conflicting "
            "dependencies.\n    The user requested (constraint) torch<=2.14.1",
            "may not install torch==2.13.0: a constraint",
        ),
        ("ERROR: something new", "could not install"),
    ],
)
def test_what_pip_says_becomes_plain_words_and_a_remedy(output, words):
    error = install_deps.explain_pip_failure(output)
    assert words in error.message and error.hint


def test_no_disk_space_is_said_before_anything_is_made(tmp_path):
    with pytest.raises(UserError, match="GB free"):
        install_deps.check_space(tmp_path / "new" / "folder", 1e9)
    install_deps.check_space(tmp_path / "new" / "folder", 0.0)


def test_an_index_that_does_not_answer_is_noticed_soon(monkeypatch):
    import socket
    import time

    monkeypatch.setattr(install_deps, "PROBES_S", (0.5, 1.0))
    with socket.socket() as silent:  # accepts, and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        assert not install_deps.reachable(f"http://127.0.0.1:{silent.getsockname()[1]}/")
        assert time.monotonic() - started < sum(install_deps.PROBES_S) + 20
    assert not install_deps.reachable("http://nowhere.invalid/")


@pytest.mark.parametrize("old", ["python3.9", "python3.8", "python3.10"])
def test_an_old_python_gets_a_plain_message(old):
    sys.path.insert(0, str(ROOT / "tests"))
    from blender_versions import find_python

    python = find_python(old.removeprefix("python"))
    if python is None:
        pytest.skip(f"{old} is not installed")
    told = subprocess.run(
        [python, ROOT / "install_deps.py"], capture_output=True, text=True, check=False
    )
    assert (
        told.returncode == 2
        and told.stderr.startswith("error: this is Python 3.")
        and told.stderr.count("\n") == 1
    )


def test_check_changes_nothing_and_says_what_is_missing(tmp_path):
    command = [
        sys.executable,
        "-I",
        str(ROOT / "install_deps.py"),
        "--check",
        "--json",
        "--env",
        str(tmp_path / "none"),
        "--cuda",
        "cpu",
    ]
    told = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert told.returncode == 1, told.stderr
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    assert (
        lines[-1]["stage"] == "error"
        and lines[-1]["ok"] is False
        and "not complete" in lines[-1]["text"]
    )
    assert not (tmp_path / "none").exists()


def test_the_last_line_says_what_to_type_next(tmp_path, monkeypatch):
    own, other = install_deps.ROOT / ".venv", tmp_path / "an env"
    monkeypatch.chdir(install_deps.ROOT)
    said = install_deps.first_command(own)
    python = install_deps.python_in(Path(".venv"))
    assert said == f"Make the demo: {python} -m engine generate"
    monkeypatch.chdir(tmp_path)
    said = install_deps.first_command(other)
    assert f" in {install_deps.ROOT}: " in said and f'"{install_deps.python_in(other)}" -m' in said
