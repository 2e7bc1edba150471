"""Whole stages of full-size networks on tensors without values that say they are on CUDA.

    python -m tests.pretended_cuda.fake svd:25x576x1024:4,none ltx:25x512x704:1,layers,tiles

Prints one line of JSON a case: peak bytes a stage, copies, mixed kinds. torch's FakeTensorMode
raises where tensors of different devices meet; kinds of numbers are looked at here. Memory is
what torch's allocator would hand out, weights included: no workspace of cuDNN, no CUDA context, no
fragmentation, and attention without a matrix of scores, as flash attention does it.
"""

from __future__ import annotations

if __name__ == "__main__":
    from tests.pretended_cuda import guard

    guard.load()

import json
import sys
import traceback
import weakref
from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_BLOCK = 512  # bytes: what torch's allocator rounds to
_ONE_KIND = {
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "convolution",
    "linear",
    "native_layer_norm",
    "native_group_norm",
    "matmul",
    "_fused_rms_norm",
}


class Watch(TorchDispatchMode):
    """Counts bytes on the device, copies between devices, and operations on mixed kinds."""

    def __init__(self) -> None:
        super().__init__()
        self._live: dict[int, int] = {}
        self.now = self.peak = 0
        self.where = ""
        self.copies: Counter[str] = Counter()
        self.mixed: dict[str, str] = {}

    def restart(self) -> None:
        self.peak, self.where = self.now, "what was there before"
        self.copies.clear()

    def _free(self, key: int) -> None:
        self.now -= self._live.pop(key, 0)

    def _seen(self, tensor: Tensor, name: str) -> None:
        if not isinstance(tensor, FakeTensor) or tensor.device.type != "cuda":
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._live:
            return
        size = -(-int(storage.nbytes()) // _BLOCK) * _BLOCK
        self._live[key] = size
        self.now += size
        weakref.finalize(storage, self._free, key)
        if self.now > self.peak:
            self.peak, self.where = self.now, f"{name} {list(tensor.shape)} {tensor.dtype}"

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        leaves = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        for t in leaves:
            self._seen(t, "argument")
        kinds = {t.dtype for t in leaves if t.is_floating_point()}
        if name in _ONE_KIND and len(kinds) > 1:
            where = [x for x in traceback.format_stack() if "engine" in x or "models" in x]
            self.mixed.setdefault(f"{name} of {sorted(map(str, kinds))}", "".join(where[-2:]))
        out = func(*args, **kwargs)
        for t in tree_leaves(out):
            if isinstance(t, Tensor):
                self._seen(t, name)
        if name in ("_to_copy", "copy_") and leaves:
            source = leaves[-1] if name == "copy_" else leaves[0]
            target = leaves[0] if name == "copy_" else out
            if source.device.type != target.device.type:
                way = f"{source.device.type} to {target.device.type}"
                self.copies[way] += source.numel() * source.element_size()
        return out


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """scaled_dot_product_attention's result without a matrix of scores; one device, one kind."""
    parts = [query, key, value]
    if len({t.device for t in parts}) > 1 or len({t.dtype for t in parts}) > 1:
        raise RuntimeError(f"attention of {[(t.device, t.dtype) for t in parts]}")
    if attn_mask is not None and attn_mask.device != query.device:
        raise RuntimeError("attention with a mask on another device")
    if attn_mask is not None and attn_mask.dtype not in (torch.bool, query.dtype):
        raise RuntimeError(f"attention of {query.dtype} with a mask of {attn_mask.dtype}")
    if query.shape[0] > 65_535:
        raise RuntimeError(f"attention of a batch of {query.shape[0]}: CUDA's grids end before")
    return query.new_empty(*query.shape[:-1], value.shape[-1])


def _to(self: nn.Module, *args, **kwargs) -> nn.Module:
    """nn.Module.to for parameters without values, which torch cannot swap in place."""
    device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)

    def moved(t: Tensor) -> Tensor:
        kind = dtype if t.is_floating_point() else None
        if t.device.type == "meta":
            return torch.empty_like(t, device=device, dtype=kind)
        return t.detach().to(device=device, dtype=kind)

    for module in self.modules():
        for name, p in list(module._parameters.items()):
            if p is not None:
                module._parameters[name] = nn.Parameter(moved(p), requires_grad=False)
        for name, b in list(module._buffers.items()):
            if b is not None:
                module._buffers[name] = moved(b)
    return self


class _Generator(torch.Generator):
    device = torch.device("cuda", 0)


def _streamed() -> None:
    """Let streamed layers, which are moved by `.data`, say where they are: such a tensor keeps
    what it said when it was made.
    """
    from diffusers.hooks.group_offloading import ModuleGroup

    def saying(name: str, device: torch.device) -> None:
        move = getattr(ModuleGroup, name)

        def moved(self, *args, **kwargs) -> None:
            move(self, *args, **kwargs)
            own = [t for m in self.modules for t in (*m.parameters(), *m.buffers())]
            for tensor in (*own, *self.parameters, *self.buffers):
                tensor.fake_device = device
                tensor.constant = None  # a value of the CPU, by which results are foretold

        setattr(ModuleGroup, name, moved)

    saying("_process_tensors_from_modules", torch.device("cuda", 0))
    saying("_offload_to_memory", torch.device("cpu"))


class _Stream:
    """What streamed layers ask of a stream: here everything happens in the order of the program."""

    def __enter__(self) -> None: ...
    def __exit__(self, *_) -> None: ...
    def synchronize(self) -> None: ...


def pretend() -> None:
    """Replace what needs a real device."""
    import diffusers.models.modeling_utils
    import transformers.modeling_utils

    from engine.models import memory
    from engine.priors import network

    # numbers that are read decide on no shape here: tables of noise levels, a depth model's lens
    Tensor.__float__ = lambda self: 0.5
    Tensor.__int__ = lambda self: 900
    nn.Module.to = _to
    diffusers.models.modeling_utils.ModelMixin.to = _to
    transformers.modeling_utils.PreTrainedModel.to = _to
    # random weights are drawn again where they fall too far off: without values nobody can tell
    transformers.modeling_utils.PreTrainedModel.init_weights = lambda self: None
    network.NetworkPrior.generator = lambda self, seed: _Generator()
    memory.free_bytes = lambda device: 80 * memory.GIB
    torch.cuda.mem_get_info = lambda *_: (80 * memory.GIB, 80 * memory.GIB)
    torch.cuda.memory_reserved = lambda *_: 0
    torch.cuda.set_per_process_memory_fraction = lambda *_: None
    torch.cuda.empty_cache = lambda: None
    _streamed()
    torch.cuda.Stream = _Stream
    torch.cuda.stream = lambda stream: stream
    torch.cuda.current_stream = lambda *_: _Stream()
    Tensor.pin_memory = lambda self, *_: self
    Tensor.is_pinned = lambda self, *_: True
    F.scaled_dot_product_attention = attention
    torch._C._nn.scaled_dot_product_attention = attention


def case(text: str) -> dict:
    """`prior:FxHxW:branches,offload[,tiles][,8bit]` -> its peaks."""
    from benchmarks import full_size
    from engine.models import memory

    name, sizes, how = text.split(":")
    frames, height, width = map(int, sizes.split("x"))
    branches, offload, *rest = how.split(",")
    rung = memory.Rung(int(branches), offload, "tiles" in rest, "8bit" in rest)
    result: dict = {"case": text, "peaks": {}, "where": {}}
    with FakeTensorMode(allow_non_fake_inputs=True), Watch() as watch:
        prior = full_size.make(name, frames, height, width, rung=rung)
        result["estimate"] = memory.estimate(rung, prior.residence.demand) / memory.GIB
        scene = full_size.clip(frames, height, width)
        runs = 2 if rung.branches > 2 else 1  # more calls one after another take no more memory
        for stage, work in full_size.stages(prior, scene, steps=1, runs=runs).items():
            watch.restart()
            work()
            result["peaks"][stage] = watch.peak / memory.GIB
            result["where"][stage] = watch.where
        result["mixed"] = watch.mixed
    return result


def finisher_case(text: str) -> dict:
    """`finisher:name:HxW:offload` -> its peaks: the network, and coding either way."""
    from benchmarks import full_size
    from engine.models import memory

    _, name, size, offload = text.split(":")
    height, width = map(int, size.split("x"))
    rung = memory.Rung(1, offload)
    with FakeTensorMode(allow_non_fake_inputs=True), Watch() as watch, torch.no_grad():
        finisher = full_size.make_finisher(name, height, width, rung=rung)
        shown = torch.empty(1 + finisher.refers, 3, height, width, device="cuda")
        result: dict = {"case": text, "peaks": {}, "where": {}}
        made: dict = {}
        for stage, work in {
            "code": lambda: made.update(zip(("z", "seen"), finisher._coded(shown), strict=True)),
            "ask": lambda: made.update(noise=finisher._asked(made["z"])),
            "decode": lambda: finisher._decoded(made["z"][:1], made["seen"]),
        }.items():
            watch.restart()
            work()
            result["peaks"][stage] = watch.peak / memory.GIB
            result["where"][stage] = watch.where
        frames = torch.empty(1, 3, height, width, device="cuda")
        assert finisher.finish(frames, frames[0]).shape == frames.shape
    result["estimate"] = memory.estimate(rung, finisher.residence.demand) / memory.GIB
    result["mixed"] = watch.mixed
    return result


def depth_model(name: str):
    """A released depth network without weights, and what is called with the picture."""
    from transformers import (
        BeitConfig,
        DepthAnythingConfig,
        DepthAnythingForDepthEstimation,
        DepthProConfig,
        DepthProForDepthEstimation,
        Dinov2Config,
        ZoeDepthConfig,
        ZoeDepthForDepthEstimation,
    )

    from engine.geometry import learned
    from engine.geometry.networks import depth_anything_3, moge
    from tests.tiny_models import depth_keys

    if name == "moge_2":
        state = {n: torch.empty(s) for n, s in depth_keys()["moge"].items()}
        network = moge.of_description(depth_keys()["moge_config"], state, "made").to("cuda")
        return network, network  # without the solver, which computes on the CPU
    if name == "depth_anything_3":
        state = {n: torch.empty(s) for n, s in depth_keys()["depth_anything_3"].items()}
        network = depth_anything_3.of_sizes(state, "made").to("cuda")
        return network, lambda image: depth_anything_3.read(network, image)
    if name == "depth_pro":
        encoder = {
            "model_type": "dinov2",
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 384,
            "patch_size": 16,
        }
        parts = ("image_model_config", "patch_model_config", "fov_model_config")
        config = DepthProConfig(use_fov_model=True, **{part: dict(encoder) for part in parts})
        network = DepthProForDepthEstimation(config).to("cuda", torch.float16)
        return network, learned._DepthPro(network)
    if name == "zoedepth":
        backbone = BeitConfig(
            image_size=384,
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            intermediate_size=4096,
            use_relative_position_bias=True,
            out_features=["stage6", "stage12", "stage18", "stage24"],
            reshape_hidden_states=False,
        )
        network = ZoeDepthForDepthEstimation(ZoeDepthConfig(backbone_config=backbone)).to("cuda")
        return network, learned._ZoeDepth(network)
    backbone = Dinov2Config(
        hidden_size=384,
        num_attention_heads=6,
        image_size=518,
        patch_size=14,
        out_features=["stage3", "stage6", "stage9", "stage12"],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=384,
        neck_hidden_sizes=[48, 96, 192, 384],
        fusion_hidden_size=64,
        depth_estimation_type="metric",
        max_depth=20,
    )
    network = DepthAnythingForDepthEstimation(config).to("cuda")
    return network, learned._DepthAnything(network, outdoor=True)


def depth_case(text: str) -> dict:
    """`depth:model:HxW` -> its peak."""
    _, name, size = text.split(":")
    height, width = map(int, size.split("x"))
    with FakeTensorMode(allow_non_fake_inputs=True), Watch() as watch, torch.no_grad():
        network, look = depth_model(name)
        network.eval()
        watch.restart()
        look(torch.empty(3, height, width, device="cuda"))
        peak = watch.peak / 2**30
    return {"case": text, "peaks": {"depth": peak}, "where": watch.where, "mixed": watch.mixed}


def main() -> None:
    pretend()
    for text in sys.argv[1:]:
        try:
            kinds = {"depth": depth_case, "finisher": finisher_case}
            found = kinds.get(text.split(":")[0], case)(text)
        except Exception:
            lines = traceback.format_exc().splitlines()
            ours = [x for x in lines if "/engine/" in x or "/benchmarks/" in x]
            found = {"case": text, "error": [x[:200] for x in [*ours, *lines[-2:]]]}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
