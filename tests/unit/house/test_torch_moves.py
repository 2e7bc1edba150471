"""The installer moves real environments between builds of torch: dummy wheels, local indexes, no
network. The cards are those that a small program called nvidia-smi tells of.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path

import pytest

import install_deps
from engine.bridge.errors import UserError
from engine.models import nvidia
from engine.models.torch_build import Torch, choose
from tests import dummy_wheels

ROOT = Path(__file__).resolve().parents[3]
PINS = install_deps.Pins(["torch==2.13.0"], {"gpu": ["warp-lang==1.17.0"]}, {"dev": []}, [])
ADA = "NVIDIA GeForce RTX 4070, 8.9, 580.88"
PASCAL = "NVIDIA GeForce GTX 1080, 6.1, 581.15"
OLD_DRIVER = "NVIDIA GeForce RTX 5090, 12.0, 551.23"

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="Linux's rules and shell scripts; Windows' rules: find_index"
)


class Silent(install_deps.Told):
    """Collects what the user would read."""

    def __init__(self) -> None:
        super().__init__(as_json=False)
        self.lines: list[str] = []

    def __call__(self, text, stage="install", done=0, total=0, **more):
        self.lines.append(text)

    def detail(self, line):
        self.lines.append(line)

    def __contains__(self, words: str) -> bool:
        return any(words in line for line in self.lines)


class Bench:
    """A folder with indexes, and one environment to be."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, patch
        self.env = folder / "ö c ñ" / ".venv"
        self.index = (folder / "whl").as_uri()
        for name in list(os.environ):
            if name.startswith("PIP_"):
                patch.delenv(name)
        patch.setenv("PIP_CONFIG_FILE", os.devnull)
        patch.setenv("PIP_NO_CACHE_DIR", "1")
        patch.setenv("PIP_NO_COMPILE", "1")
        patch.setattr(nvidia, "from_cuda", lambda: None)
        patch.setattr(nvidia, "from_nvml", lambda: None)
        # the dummies can compile nothing, and each try would cost two starts of Python
        patch.setattr(install_deps, "compile_kernels", lambda python, told: None)
        # the dummies fit on any disk; what the real ones need is test_install_deps' affair
        patch.setattr(install_deps, "check_space", lambda folder, needed_gb: None)
        self.default("cpu", "2.13.0")
        for build in ("cpu", "cu126", "cu130"):
            self.offer(build)

    def default(self, build: str, named: str | None = None) -> None:
        """pip's default index: Warp, cuBLAS, and a torch of this build."""
        place = self.folder / "default"
        shutil.rmtree(place, ignore_errors=True)
        dummy_wheels.torch_wheel(place / "wheels", build, named)
        dummy_wheels.wheel(place / "wheels", "nvidia-cublas", "13.1", {"cublas.py": ""})
        dummy_wheels.wheel(place / "wheels", "warp-lang", "1.17.0", {"warp.py": ""})
        address = dummy_wheels.index(place / "simple", place / "wheels")
        self.patch.setenv("PIP_INDEX_URL", address)

    def offer(self, build: str, **how) -> None:
        """PyTorch's own index has this build, or what pretends to be it."""
        wheels = self.folder / "wheels" / build
        shutil.rmtree(wheels, ignore_errors=True)
        shutil.rmtree(self.folder / "whl" / build, ignore_errors=True)
        dummy_wheels.torch_wheel(wheels, build, **how)
        dummy_wheels.index(self.folder / "whl" / build, wheels)

    def card(self, line: str) -> None:
        """The machine has this card."""
        programs = self.folder / "programs"
        programs.mkdir(exist_ok=True)
        smi = programs / "nvidia-smi"
        smi.write_text(f"#!/bin/sh\necho '{line}'\n")
        smi.chmod(0o755)
        if str(programs) not in os.environ["PATH"]:
            self.patch.setenv("PATH", str(programs), prepend=os.pathsep)

    def args(self, *arguments: str):
        """The command line of a run."""
        return install_deps.parse(["--env", str(self.env), "--torch-index", self.index, *arguments])

    def install(self, *arguments: str) -> Silent:
        """Run the installer; what it said."""
        told = Silent()
        install_deps.install_engine(self.args(*arguments), PINS, told)
        return told

    @property
    def python(self) -> Path:
        return install_deps.python_in(self.env)

    def stamp(self) -> dict:
        return json.loads((self.env / install_deps.STAMP).read_text())

    def really(self) -> str:
        """What the interpreter of the environment says of its torch."""
        code = "import torch; print(torch.__version__, torch.version.cuda)"
        told = subprocess.run([self.python, "-c", code], capture_output=True, text=True, check=True)
        return told.stdout.strip()

    def packages(self) -> set[str]:
        site = install_deps.sites(self.env)[0]
        return {path.name.split("-")[0] for path in site.glob("*.dist-info")}


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """An environment with pip and nothing else, made once: that takes seconds."""
    folder = tmp_path_factory.mktemp("empty") / ".venv"
    told = Silent()
    target = install_deps.Environment(folder, [], "cpu", Path(sys.executable), told, PINS)
    target.prepare()
    return folder


@pytest.fixture
def bench(tmp_path, monkeypatch, empty):
    made = Bench(tmp_path, monkeypatch)
    shutil.copytree(empty, made.env, symlinks=True)
    return made


def test_a_cpu_environment_moves_to_cuda_when_there_is_a_card_and_back_when_asked(bench):
    bench.install()
    assert bench.really() == "2.13.0+cpu None"
    assert bench.stamp()["has"]["build"] == "cpu"
    assert "is complete" in bench.install()
    bench.card(ADA)
    with pytest.raises(UserError, match="not complete"):
        bench.install("--check")
    told = bench.install()
    assert "for CUDA 13.0: NVIDIA GeForce RTX 4070 (8.9), driver 580.88, in place of" in told
    assert bench.really() == "2.13.0+cu130 13.0"
    assert bench.stamp()["has"]["torch"] == "2.13.0+cu130"
    assert {"nvidia_cublas", "warp_lang"} <= bench.packages()
    assert "is complete" in bench.install()
    told = bench.install("--cuda", "cpu")
    assert bench.really() == "2.13.0+cpu None" and bench.stamp()["has"]["build"] == "cpu"
    assert "nvidia_cublas" not in bench.packages(), "gigabytes that only CUDA needs"
    assert "torch" in bench.packages() and "Removing what only CUDA needs" in told


def test_each_card_and_driver_gets_its_build_and_a_useless_move_is_not_made(bench):
    bench.card(PASCAL)
    told = bench.install()
    assert bench.really() == "2.13.0+cu126 12.6" and "is older than Turing" in told
    bench.card("NVIDIA GeForce RTX 2060, 7.5, 580.88")  # runs with what is there
    assert "2.13.0+cu126, built for CUDA 12.6 is kept" in bench.install()
    bench.card("NVIDIA GeForce RTX 5090, 12.0, 580.88")  # does not
    bench.install()
    assert bench.really() == "2.13.0+cu130 13.0"
    (bench.folder / "programs" / "nvidia-smi").unlink()  # a driver that is away for a moment
    assert "2.13.0+cu130, built for CUDA 13.0 is kept" in bench.install()
    assert bench.really() == "2.13.0+cu130 13.0"


def test_a_driver_too_old_for_its_card_installs_for_the_cpu_and_says_which_driver(bench):
    bench.card(OLD_DRIVER)
    told = bench.install()
    assert bench.really() == "2.13.0+cpu None"
    assert "speaks only CUDA 12.4" in told and "driver to 580 or newer" in told
    with pytest.raises(UserError, match=r"speaks only CUDA 12\.4.*580 or newer"):
        bench.install("--cuda", "cuda")


def test_a_stamp_that_lies_is_found_out(bench):
    """What earlier installers wrote: a stamp for CUDA over a torch for CPUs."""
    bench.install()
    lie = bench.stamp()
    lie["has"] |= {"build": "cu130", "requirements": [*PINS.engine, "warp-lang==1.17.0"]}
    del lie["has"]["torch"]
    (bench.env / install_deps.STAMP).write_text(json.dumps(lie))
    bench.card(ADA)
    bench.install()
    assert bench.really() == "2.13.0+cu130 13.0" and bench.stamp()["has"]["build"] == "cu130"


def test_a_torch_that_somebody_else_put_there_is_moved_back(bench):
    bench.card(ADA)
    bench.install()
    site = install_deps.sites(bench.env)[0]
    (site / "torch" / "version.py").write_text("__version__ = '2.13.0+cpu'\ncuda = None\n")
    told = bench.install()
    assert "in place of 2.13.0+cpu" in told and bench.really() == "2.13.0+cu130 13.0"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"cuda": ""}, "but what came is 2.13.0\\+cu130, built for CPUs"),
        ({"cuda": "12.6"}, "calls itself 2.13.0\\+cu130 but is built for CUDA 12.6"),
        (
            {"broken": "raise OSError('libcudart.so.13: cannot open')"},
            "cannot be loaded.*libcudart",
        ),
    ],
)
def test_a_wrong_wheel_is_never_sealed(bench, how, words):
    bench.card(ADA)
    bench.offer("cu130", **how)
    with pytest.raises(UserError, match=words) as refusal:
        bench.install()
    assert refusal.value.hint and not (bench.env / install_deps.STAMP).exists()
    bench.offer("cu130")
    if "broken" in how:  # the remedy that it names
        shutil.rmtree(bench.env)
    bench.install()
    assert bench.really() == "2.13.0+cu130 13.0"


def test_without_pytorchs_index_the_stamp_says_what_came_and_the_next_run_tries_again(bench):
    bench.card(ADA)
    bench.index = "http://nowhere.invalid/whl"
    told = bench.install()
    assert "cannot be reached" in told and "came instead of cu130" in told
    assert bench.really() == "2.13.0+cpu None"
    assert bench.stamp()["has"]["build"] == "cpu" and bench.stamp()["instead_of"] == "cu130"
    with pytest.raises(UserError, match="not complete"):
        bench.install("--check")
    assert "Nothing was changed" in bench.install()
    bench.index = (bench.folder / "whl").as_uri()
    bench.install()
    assert bench.really() == "2.13.0+cu130 13.0" and "instead_of" not in bench.stamp()


def test_without_pytorchs_index_a_default_index_with_cuda_is_taken_for_what_it_is(bench):
    bench.default("cu130", "2.13.0")  # as PyPI's for Linux
    bench.index = "http://nowhere.invalid/whl"
    told = bench.install()  # no card: it computes on the CPU
    assert "2.13.0+cu130, built for CUDA 13.0 was loaded" in told
    assert bench.stamp()["has"]["build"] == "cu130"
    assert "is kept" in bench.install()
    with pytest.raises(UserError, match="only it has PyTorch for CPUs, as asked"):
        bench.install("--cuda", "cpu")


def test_on_windows_a_build_for_cuda_without_its_index_is_an_error_with_the_way_out(bench):
    bench.card(ADA)
    plan = install_deps.plan_engine(bench.args(), PINS, Silent())
    nowhere = "http://nowhere.invalid/whl"
    with pytest.raises(UserError, match="cannot be reached") as refusal:
        install_deps.find_index(plan, "Windows", nowhere, Silent())
    assert "--wheels" in refusal.value.hint and "--download" in refusal.value.hint
    assert install_deps.find_index(plan, "Linux", nowhere, Silent()) == install_deps.DEFAULT_INDEX
    there = install_deps.find_index(plan, "Windows", bench.index, Silent())
    assert there.exact and there.arguments[1].endswith("/whl/cu130/")
    for_cpus = plan._replace(choice=choose("Windows", "AMD64", nvidia.Nvidia()))
    assert install_deps.find_index(for_cpus, "Windows", nowhere, Silent()).arguments == ()


def test_where_the_default_index_has_the_build_torch_is_moved_all_the_same(bench):
    """As on Windows from CUDA to the CPU: "torch==2.13.0" is satisfied by what is there."""
    bench.card(ADA)
    bench.install()
    plan = install_deps.plan_engine(bench.args("--cuda", "cpu"), PINS, Silent())
    plan.target.prepare()
    plan.target.install(install_deps.DEFAULT_INDEX)
    assert bench.really() == "2.13.0+cpu None"


def test_offline_a_folder_of_wheels_serves_and_a_folder_that_lacks_one_says_which(bench):
    bench.card(ADA)
    bag = bench.folder / "bag of wheels"
    told = bench.install("--download", str(bag))
    assert {p.name.split("-")[0] for p in bag.iterdir()} == {"torch", "nvidia_cublas", "warp_lang"}
    assert not (bench.env / install_deps.STAMP).exists() and "has all wheels" in told
    bench.patch.setenv("PIP_INDEX_URL", "http://nowhere.invalid/simple")
    bench.index = "http://nowhere.invalid/whl"
    next(bag.glob("nvidia*")).rename(bench.folder / "taken.whl")
    with pytest.raises(UserError, match="folder of wheels has no nvidia-cublas") as refusal:
        bench.install("--wheels", str(bag))
    assert "--download" in refusal.value.hint
    (bench.folder / "taken.whl").rename(bag / "nvidia_cublas-13.1-py3-none-any.whl")
    bench.install("--wheels", str(bag))
    assert bench.really() == "2.13.0+cu130 13.0"
    with pytest.raises(UserError, match="is no folder"):
        bench.install("--cuda", "cpu", "--wheels", str(bag / "none"))


def test_a_folder_of_wheels_for_another_build_is_refused_before_anything_is_made(bench):
    """Filled on a computer without a card, brought to one that has one."""
    bag = bench.folder / "bag"
    bench.install("--download", str(bag))
    bench.card(ADA)
    with pytest.raises(UserError, match=r"holds torch-2\.13\.0\+cpu") as refusal:
        bench.install("--wheels", str(bag))
    assert "--cuda cu130 --download" in refusal.value.hint
    assert "--cuda cpu --wheels" in refusal.value.hint
    assert "torch" not in bench.packages(), "nothing was touched"
    bench.install("--wheels", str(bag), "--cuda", "cpu")  # the way out that it names
    assert bench.really() == "2.13.0+cpu None"


def test_an_index_behind_the_proxy_that_pip_is_told_of_is_reached(bench):
    """pip has the proxy from its own settings, which no other program reads."""
    bench.card(ADA)
    pages = functools.partial(Proxy, directory=str(bench.folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = bench.folder / "pip.conf"
        settings.write_text(f"[global]\nproxy = http://127.0.0.1:{server.server_port}\n")
        bench.patch.setenv("PIP_CONFIG_FILE", str(settings))
        bench.patch.setenv("PIP_TRUSTED_HOST", "pytorch.invalid")
        bench.index = "http://pytorch.invalid/whl"
        bench.install()
        server.shutdown()
    assert bench.really() == "2.13.0+cu130 13.0"


class Proxy(http.server.SimpleHTTPRequestHandler):
    """Answers for any host out of a folder, whose indexes name files by their addresses there."""

    def do_GET(self):
        self.path = urllib.parse.urlsplit(self.path).path
        super().do_GET()

    def log_message(self, *_):
        pass


def test_an_index_that_is_gone_altogether_is_an_error_with_what_to_do(bench):
    bench.patch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens
    bench.patch.setenv("PIP_RETRIES", "1")
    bench.index = "http://nowhere.invalid/whl"
    with pytest.raises(UserError, match="package index cannot be reached") as refusal:
        bench.install()
    assert "--wheels FOLDER" in refusal.value.hint


RUN = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}]
import install_deps
from engine.models import nvidia
nvidia.from_cuda = nvidia.from_nvml = lambda: None
install_deps.compile_kernels = lambda python, told: None
install_deps.check_space = lambda folder, needed_gb: None
pins = install_deps.Pins(["torch==2.13.0"], {{"gpu": ["warp-lang==1.17.0"]}}, {{"dev": []}}, [])
install_deps.install_engine(install_deps.parse(sys.argv[1:]), pins, install_deps.Told(False))
"""


@pytest.mark.parametrize("moment", ["as it begins to unpack", "amid the files"])
def test_a_move_that_is_killed_is_seen_and_mended_by_the_next_run(bench, moment):
    bench.install()
    bench.card(ADA)
    bench.offer("cu130", files=3000)
    site = install_deps.sites(bench.env)[0]
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            RUN.format(root=str(ROOT)),
            *("--env", str(bench.env), "--torch-index", bench.index),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if moment.startswith("as") and list(site.glob("~*")):
            break
        if moment.startswith("amid") and (site / "torch" / "part5.so").exists():
            break
        time.sleep(0.001)
    assert process.poll() is None, "it was over before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (bench.env / install_deps.STAMP).exists()
    with pytest.raises(UserError, match="not complete"):
        bench.install("--check")
    bench.install()
    assert bench.really() == "2.13.0+cu130 13.0" and install_deps.damage(bench.env) == ""
    assert "is complete" in bench.install()


def test_files_without_the_end_of_their_installation_are_no_torch(bench):
    """As a kill leaves them where there was none before: pip writes a package's own list last."""
    bench.card(ADA)
    site = install_deps.sites(bench.env)[0]
    (site / "torch").mkdir()
    (site / "torch" / "version.py").write_text("__version__ = '2.13.0+cu130'\ncuda = '13.0'\n")
    (bench.env / install_deps.MARKER).touch()
    bench.install()
    assert bench.really() == "2.13.0+cu130 13.0" and bench.stamp()["has"]["build"] == "cu130"


def test_a_dry_run_changes_nothing_and_says_all(bench, capsys):
    bench.install()
    bench.card(ADA)
    before = {path: path.stat().st_mtime_ns for path in bench.env.rglob("*")}
    arguments = ["--dry-run", "--json", "--env", str(bench.env), "--torch-index", bench.index]
    assert install_deps.main(arguments) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    plan = next(line for line in lines if line["stage"] == "plan")
    assert (plan["build"], plan["moves"], plan["complete"]) == ("cu130", True, False)
    assert plan["has"] == "2.13.0+cpu, built for CPUs" and plan["download_gb"] > 1
    assert before == {path: path.stat().st_mtime_ns for path in bench.env.rglob("*")}


def test_the_stamp_names_what_was_seen_and_not_what_was_wanted(bench):
    plan = install_deps.plan_engine(bench.args(), PINS, Silent())
    plan.target.seal(Torch("2.13.0+cu126", "12.6", False))
    assert bench.stamp()["has"]["build"] == "cu126"
