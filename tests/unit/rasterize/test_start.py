"""Start-up: what is compiled is kept, where it is kept, how many threads there are, and gsplat's
absence in words.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import rasterize as rasterize_room
from engine.bridge.errors import UserError
from engine.rasterize import (
    choose_backend,
    compile_all,
    drawing_device,
    gsplat_backend,
    rasterize,
)
from engine.rasterize.kernels import threads
from engine.rasterize.kernels.compile import choose_cache_folder
from engine.rasterize.kernels.workspace import Frame, Workspace, lent_tensor
from engine.scene.gaussians import Gaussians

ROOT = Path(__file__).resolve().parents[3]


def one() -> tuple[Gaussians, torch.Tensor, torch.Tensor]:
    g = Gaussians(
        torch.tensor([[0.0, 0, 2]]),
        torch.tensor([[1.0, 0, 0, 0]]),
        torch.full((1, 3), -1.0),
        torch.ones(1),
        torch.ones(1, 3),
        torch.zeros(1, 0, 3),
    )
    return g, torch.tensor([[[20.0, 0, 8], [0, 20, 8], [0, 0, 1]]]), torch.eye(4)[None]


def words_printed_by(code: str) -> list[str]:
    """In a process of its own."""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return run.stdout.split()


def test_another_process_compiles_nothing() -> None:
    """`compile_all` leaves files; the next process only reads them. That the count counts is seen
    by a function of its own.
    """
    compile_all((3,), (3,))
    code = (
        "import numba, numba.core.dispatcher as d; n = []; old = d._FunctionCompiler.compile; "
        "d._FunctionCompiler.compile = lambda self, *a: (n.append(1), old(self, *a))[1]; "
        "from engine.rasterize import compile_all; compile_all((3,), (3,)); before = len(n); "
        "numba.njit(lambda x: x)(1); print(before, len(n))"
    )
    assert words_printed_by(code) == ["0", "1"]


def test_refining_on_the_cpu_does_not_load_torchs_compiler() -> None:
    """It would cost each job 2 CPU seconds and 75 MB; any torch.optim.Optimizer loads it."""
    code = (
        "import sys, torch; from engine.method.refine import refine; "
        "from tests.unit.rasterize.test_start import one; g, K, camera = one(); "
        "refine(g, torch.zeros(1, 3, 16, 16), K, camera, steps=1); "
        "print('torch._dynamo' in sys.modules); torch.optim.Adam([torch.ones(1)]); "
        "print('torch._dynamo' in sys.modules)"
    )
    assert words_printed_by(code) == ["False", "True"]


def test_compiled_code_goes_to_a_temporary_folder_only_if_nothing_else_can_be_written(
    tmp_path: Path,
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file, so no folder can be made below it")
    assert choose_cache_folder(tmp_path, blocked) is None
    assert choose_cache_folder(blocked, tmp_path) is None
    last = choose_cache_folder(blocked, blocked)
    assert last is not None and "scene_splatter" in last.name


def test_thread_count_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCENE_SPLATTER_THREADS", "5")
    assert threads.thread_count() == 5
    monkeypatch.delenv("SCENE_SPLATTER_THREADS")
    assert threads.thread_count() >= 1
    for bad in ("0", "-1", "two", "1.5"):
        monkeypatch.setenv("SCENE_SPLATTER_THREADS", bad)
        with pytest.raises(ValueError, match="SCENE_SPLATTER_THREADS"):
            threads.thread_count()


@pytest.mark.parametrize("count", [0, 1, 7, 1000])
@pytest.mark.parametrize("workers", [1, 3, 8])
def test_ranges_cover_everything_exactly_once(
    count: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCENE_SPLATTER_THREADS", str(workers))
    hits = [0] * count

    def mark(start: int, stop: int) -> None:
        for i in range(start, stop):
            hits[i] += 1

    threads.run_ranges(mark, count, 16)
    assert hits == [1] * count


def test_an_error_on_a_thread_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCENE_SPLATTER_THREADS", "3")

    def fail(start: int, stop: int) -> None:
        raise ArithmeticError("on a thread")

    with pytest.raises(ArithmeticError):
        threads.run_ranges(fail, 100, 4)


def test_drawing_leaves_torchs_thread_count_alone() -> None:
    before = torch.get_num_threads()
    rasterize(*one(), 16, 16)
    assert torch.get_num_threads() == before


def test_borrowed_memory_comes_back_when_nobody_holds_it() -> None:
    workspace = Workspace()
    frame = Frame(workspace)
    address = frame.empty((1000, 3), float).ctypes.data
    assert Frame(workspace).empty((1000, 3), float).ctypes.data != address  # still lent
    frame.close()
    again = Frame(workspace)
    assert address in (
        again.empty((1000, 3), float).ctypes.data,
        again.empty((1000, 3), float).ctypes.data,
    )


def test_scratch_memory_is_bounded_by_what_was_lent_at_once() -> None:
    workspace = Workspace()
    for growing in range(1, 60):  # a scene that gains Gaussians with every segment
        frame = Frame(workspace)
        largest = sum(
            block.nbytes for block in (frame.empty((growing * 50_000,), np.uint8) for _ in range(3))
        )
        frame.close()
        assert workspace.free_bytes <= 1.5 * largest + 3 * 4096
    workspace.clear()
    assert workspace.free_bytes == 0


def test_sizes_in_turn_meet_the_same_memory() -> None:
    workspace, addresses = Workspace(), []
    for turn in range(12):  # every camera sees another number of Gaussians
        frame = Frame(workspace)
        addresses.append(frame.empty((1_000_000 - 100_000 * (turn % 3),), np.uint8).ctypes.data)
        frame.close()
    assert len(set(addresses[2:])) == 1


def test_a_lent_tensor_keeps_its_memory_as_long_as_any_view_lives() -> None:
    workspace = Workspace()
    tensor = lent_tensor(workspace, (500, 4))
    view, address = tensor[10:], tensor.data_ptr()
    del tensor
    assert lent_tensor(workspace, (500, 4)).data_ptr() != address
    view.fill_(1.0)
    del view
    assert lent_tensor(workspace, (500, 4)).data_ptr() == address


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_cuda_gsplat_is_refused_in_words() -> None:
    assert "CUDA" in gsplat_backend.why_unusable()
    assert choose_backend(torch.device("cpu")) == "cpu"
    with pytest.raises(UserError, match="CUDA"):
        rasterize(*one(), 16, 16, backend="gsplat")


def test_wheels_whose_kernels_do_not_fit_are_named_and_never_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`import gsplat` would answer them with a compilation of minutes: it must wait for consent."""
    package, imported = tmp_path / "gsplat", tmp_path / "imported"
    package.mkdir()
    (package / "__init__.py").write_text(f"open({str(imported)!r}, 'w').close()")
    for ending in ("so", "pyd"):
        (package / f"csrc.{ending}").write_bytes(b"not a library of this machine")
    record = tmp_path / f"gsplat-{gsplat_backend.VERSION}.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: gsplat\nVersion: {gsplat_backend.VERSION}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(
        sys.modules, "gsplat", raising=False
    )  # a real one that another test imported
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv(gsplat_backend.CONSENT, raising=False)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "built"))
    reason = gsplat_backend.why_unusable.__wrapped__()
    assert (
        "do not fit" in reason and f"{gsplat_backend.CONSENT}=1" in reason and not imported.exists()
    )
    for file in package.glob("csrc.*"):
        file.unlink()
    reason = gsplat_backend.why_unusable.__wrapped__()
    assert (
        "not compiled" in reason
        and f"{gsplat_backend.CONSENT}=1" in reason
        and not imported.exists()
    )
    monkeypatch.setattr(gsplat_backend, "VERSION", "1.5.2")
    assert "1.5.2 is needed" in gsplat_backend.why_unusable.__wrapped__()


@pytest.mark.parametrize(("drawn_by", "home"), [("gsplat", "cuda"), ("warp", "cuda"), ("", "cpu")])
def test_gaussians_stay_on_the_cpu_where_nothing_draws_on_the_gpu(
    drawn_by: str, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rasterize_room, "gpu_backend", lambda: (drawn_by, "said why"))
    choose_backend.cache_clear()
    try:
        assert drawing_device(torch.device("cuda")) == torch.device(home)
        assert drawing_device(torch.device("cpu")) == torch.device("cpu")
    finally:
        choose_backend.cache_clear()
