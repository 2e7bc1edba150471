"""Real values on the CPU in tensors that say they are on CUDA.

    python -m tests.pretended_cuda.pretend refine
    python -m tests.pretended_cuda.pretend job FOLDER PRIOR DEPTH

What a card refuses raises here too: operations on tensors of both kinds, `.numpy()`. Generators of
the other device are not seen: torch hands them on without what they pretend to be. Every wait for
the device is counted, with the line of the engine that asks for it: numbers that are read, shapes
that depend on values, and copies that block, either way. Our Warp kernels run on Warp's CPU device,
with the values of the pretended tensors.
"""

from __future__ import annotations

if __name__ == "__main__":
    from tests.pretended_cuda import guard

    guard.load()

import json
import os
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda", 0)
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
_WAITS = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "equal",
    "is_nonzero",
    "_unique2",
    "unique_consecutive",
    "repeat_interleave",
}


class Log:
    """What was asked of the pretended device."""

    def __init__(self) -> None:
        self.waits: Counter[str] = Counter()  # by line of the engine
        self.up: Counter[str] = Counter()  # copies to the device, bytes
        self.down: Counter[str] = Counter()  # copies from it, bytes; each is a wait too
        self.operations = 0

    def clear(self) -> None:
        self.waits.clear()
        self.up.clear()
        self.down.clear()
        self.operations = 0


LOG = Log()


def _line() -> str:
    for frame in reversed(traceback.extract_stack()):
        if "/engine/" in frame.filename:
            return f"{frame.filename.split('/engine/')[1]}:{frame.lineno}"
    return "elsewhere"


class OnCuda(Tensor):
    """A tensor of the CPU that says it is on CUDA."""

    inside: Tensor

    @staticmethod
    def __new__(cls, inside: Tensor):
        made = Tensor._make_wrapper_subclass(
            cls,
            inside.size(),
            strides=inside.stride(),
            storage_offset=inside.storage_offset(),
            dtype=inside.dtype,
            layout=inside.layout,
            device=CUDA,
        )
        made.inside = inside
        return made

    def __repr__(self, **_) -> str:
        return f"OnCuda({list(self.shape)}, {self.dtype})"

    def data_ptr(self) -> int:
        return self.inside.data_ptr()

    def tolist(self):
        LOG.waits[_line()] += 1
        return self.inside.tolist()

    def numpy(self, **_):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _handled(func, args, kwargs or {})


def inside(x):
    return x.inside if isinstance(x, OnCuda) else x


def _outside(x):
    return OnCuda(x) if isinstance(x, Tensor) and not isinstance(x, OnCuda) else x


def _is_cuda(device) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _handled(func, args, kwargs):
    name = func._schema.name.split("::")[1]
    leaves = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    ours = [t for t in leaves if isinstance(t, OnCuda)]
    theirs = [t for t in leaves if not isinstance(t, OnCuda) and t.dim() > 0]
    device = kwargs.get("device")
    if "device" in kwargs:
        cpu = torch.device("cpu") if device is not None else None
        kwargs = {**kwargs, "device": cpu}
    if kwargs.get("pin_memory"):
        kwargs = {**kwargs, "pin_memory": False}
    if name == "_to_copy":
        up = _is_cuda(device) if device is not None else bool(ours)
        if up != bool(ours):
            size = leaves[0].numel() * leaves[0].element_size()
            (LOG.up if up else LOG.down)[_line()] += size
            if not (up and kwargs.get("non_blocking")):
                LOG.waits[_line()] += 1
        out = func(*tree_map(inside, args), **kwargs)
        return _outside(out) if up else out
    if name == "copy_":
        up, blocks = isinstance(args[0], OnCuda), not (len(args) > 2 and args[2])
        if up != isinstance(args[1], OnCuda):
            (LOG.up if up else LOG.down)[_line()] += args[1].numel() * args[1].element_size()
            if blocks or not up:
                LOG.waits[_line()] += 1
        inside(args[0]).copy_(inside(args[1]))
        return args[0]
    if not ours:
        out = func(*args, **kwargs)
        return tree_map(_outside, out) if _is_cuda(device) else out
    LOG.operations += 1
    masked = name in _INDEXING and any(t.dtype in (torch.bool, torch.uint8) for t in leaves[1:])
    if name in _WAITS or masked:
        LOG.waits[_line()] += 1
    if theirs and name not in _INDEXING:
        shapes = [list(t.shape) for t in ours][:3], [list(t.shape) for t in theirs][:3]
        raise RuntimeError(f"{name} mixes cuda {shapes[0]} with cpu {shapes[1]}")
    if name in _INDEXING and theirs and not isinstance(args[0], OnCuda):
        raise RuntimeError(f"{name} of a cpu tensor with cuda indices")
    out = func(*tree_map(inside, args), **tree_map(inside, kwargs))
    if device is not None and not _is_cuda(device):
        return out
    if func._schema.is_mutable and not func._schema.returns:
        return out
    return return_and_correct_aliasing(func, args, kwargs, tree_map(_outside, out))


class Pretended(TorchDispatchMode):
    """Inside, whatever is made on "cuda" is a pretended tensor."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _handled(func, args, kwargs or {})


class _Generator(torch.Generator):
    device = CUDA


def _to(self: nn.Module, *args, **kwargs) -> nn.Module:
    """nn.Module.to without torch's swap in place, which wrappers do not survive."""
    device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)
    for module in self.modules():
        for name, p in list(module._parameters.items()):
            if p is not None:
                kind = dtype if p.is_floating_point() else None
                moved = p.detach().to(device=device, dtype=kind)
                module._parameters[name] = nn.Parameter(moved, requires_grad=False)
        for name, b in list(module._buffers.items()):
            if b is not None:
                kind = dtype if b.is_floating_point() else None
                module._buffers[name] = b.to(device=device, dtype=kind)
    return self


@contextmanager
def pretended(backend: str = "warp") -> Iterator[None]:
    """A machine with one CUDA device of 80 GiB on which `backend` ("" for none) draws."""
    from engine import rasterize

    torch._C._set_only_lift_cpu_tensors(True)
    torch.cuda._lazy_init = lambda: None
    torch.cuda.is_available = lambda: True
    torch.cuda.mem_get_info = lambda *_: (80 * 2**30, 80 * 2**30)
    torch.cuda.empty_cache = lambda: None
    torch.cuda.set_per_process_memory_fraction = lambda *_: None
    torch.cuda.memory_reserved = lambda *_: 0
    torch.cuda.get_device_name = lambda *_: "a pretended card"
    torch.cuda.get_device_capability = lambda *_: (9, 0)
    nn.Module.to = _to
    rasterize.gpu_backend = lambda: (backend, "pretended")
    rasterize.choose_backend.cache_clear()
    if backend == "warp":
        _warp_on_the_cpu()
    with Pretended():
        yield


def _networks_too() -> None:
    """What is replaced besides where networks are at work."""
    import diffusers.models.modeling_utils
    import transformers.modeling_utils

    from engine.priors import network

    diffusers.models.modeling_utils.ModelMixin.to = _to
    transformers.modeling_utils.PreTrainedModel.to = _to

    def generator(self, seed: int) -> torch.Generator:
        made = _Generator()
        made.manual_seed(seed)
        return made

    network.NetworkPrior.generator = generator


def _warp_on_the_cpu() -> None:
    from engine.rasterize.warp import backend, kernels

    wp = backend._warp()
    from_torch, blending = wp.from_torch, kernels.blending
    backend.why_unusable = lambda: ""
    wp.from_torch = lambda t, *args, **kwargs: from_torch(inside(t), *args, **kwargs)
    wp.device_from_torch = lambda device: wp.get_device("cpu")
    backend._on = lambda tensor: (wp.get_device("cpu"), None)
    kernels.blending = lambda channels, cuda: blending(channels, False)


def refine() -> dict:
    """Waits of the steps of one refinement, by line, once the first steps are done."""
    from engine.method import refine as room
    from engine.scene.gaussians import Gaussians

    result = {}
    for recipe in ("few_views", "paper"):
        g = torch.Generator().manual_seed(0)
        n, width, height = 400, 64, 48
        spread = torch.tensor([1.2, 0.9, 0.5])
        means = torch.randn(n, 3, generator=g) * spread + torch.tensor([0.0, 0.0, 3.0])
        scene = Gaussians(
            means,
            torch.randn(n, 4, generator=g),
            torch.randn(n, 3, generator=g) * 0.3 - 2.5,
            torch.randn(n, generator=g),
            torch.randn(n, 3, generator=g),
            torch.zeros(n, 3, 3),
        )
        K = torch.tensor([[50.0, 0, 32], [0, 50.0, 24], [0, 0, 1]]).expand(3, 3, 3)
        poses = torch.eye(4).repeat(3, 1, 1)
        poses[:, 0, 3] = torch.tensor([0.0, 0.1, 0.2])
        frames = torch.rand(3, 3, height, width, generator=g)
        expected = room.refine(scene, frames, K, poses, recipe=recipe, steps=30)
        marks: list[Counter[str]] = []
        steps: list[int] = []
        with pretended():
            draw = room.rasterize

            def marked(*args, _draw=draw, _marks=marks, _steps=steps, **kwargs):
                _marks.append(Counter(LOG.waits))
                _steps.append(LOG.operations)
                return _draw(*args, **kwargs)

            room.rasterize = marked
            LOG.clear()
            found = room.refine(
                scene.map(lambda t: t.to("cuda")),
                frames.to("cuda"),
                K.to("cuda"),
                poses.to("cuda"),
                recipe=recipe,
                steps=30,
            )
            room.rasterize = draw
        waits = marks[29] - marks[9]  # twenty steps, after every frame was prepared
        result[recipe] = {
            "waits_a_step": sum(waits.values()) / 20,
            "lines": dict(waits),
            "operations_a_step": (steps[29] - steps[9]) / 20,
            "losses": [abs(a - b) for a, b in zip(found.losses, expected.losses, strict=True)],
            "on": found.gaussians.means.device.type,
        }
    return result


def job(folder: Path, prior: str, depth: str, backend: str = "warp") -> dict:
    """A whole job with a tiny real model: device faults raise."""
    from engine.bridge import settings
    from engine.job import run
    from tests.unit.priors.test_every_prior import SAVERS

    weights = folder / "weights"
    os.environ["SCENE_SPLATTER_WEIGHTS"] = str(weights)
    if SAVERS[prior] is not None:
        SAVERS[prior](weights)
    if depth not in ("box", "small"):
        from tests import tiny_models

        tiny_models.save_depth_model(depth, weights / depth)
    import numpy as np
    from PIL import Image

    rows, columns = np.mgrid[0:64, 0:64]
    picture = np.stack([rows * 3, columns * 3, (rows // 8 + columns // 8) % 2 * 200], axis=-1)
    Image.fromarray(picture.astype(np.uint8)).save(folder / "picture.png")
    values = {
        "prior": prior,
        "depth": depth,
        "width": 64,
        "move_frames": 8,
        "segment_length": 5,
        "overlap": 2,
        "steps": 2,
        "refine_steps": 8,
        "device": "cuda",
    }
    assert settings.make("draft", **values).video.prior == prior
    _networks_too()
    with pretended(backend):
        LOG.clear()
        with run.prepared_job(
            folder / "job", folder / "picture.png", "dolly:0.4", "draft", values
        ) as made:
            outputs = run.work(made, lambda *args, **kwargs: None)
    down = {line: size for line, size in LOG.down.items() if line.startswith("method/refine")}
    return {
        "outputs": sorted(outputs),
        "waits": dict(LOG.waits.most_common(12)),
        "down_in_refine": down,
        "up_in_refine": {k: v for k, v in LOG.up.items() if k.startswith("method/refine")},
        "operations": LOG.operations,
    }


def main() -> None:
    what, *rest = sys.argv[1:]
    found = refine() if what == "refine" else job(Path(rest[0]), *rest[1:])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
