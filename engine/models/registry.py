"""Every model that the engine knows, one row each: what it is, where its files are, what it needs.

The order is the rank: among priors and among depth models the best comes first. Everything that
lists models reads these rows: `weights` (files on disk), `choice` (which one a job takes), `priors`
and `geometry.learned` (which code runs it), the command line and the panel. A row is data: standard
library only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from ..bridge import candidates
from ..bridge.errors import UserError

_DIFFUSERS = ("model_index.json", "*/*.json", "*/*.safetensors", "*/*.model", "*/*.txt")
_APACHE = "Apache-2.0: free, also commercially; keep the notice"
_MIT = "MIT: free, also commercially; keep the notice"
_SVD = "Stability AI Community License: commercial use has conditions; read it on the model's page"
_COG = "CogVideoX License: commercial use has conditions; read it on the model's page"
_LTX = "LTX-Video Open Weights License: commercial use has conditions; read it on the model's page"
_DIFIX = (
    "NVIDIA Open Model License, and SD-Turbo within it under the Stability AI Community License: "
    "commercial use has conditions; read both on the models' pages"
)
_DIFIX_REF = (
    "NVIDIA non-commercial licence, and SD-Turbo within it under the Stability AI Community "
    "License: research and evaluation only"
)
_APPLE = "Apple Machine Learning Research Model License: research only"
_LIGHTX2V = "wan2.1_t2v_14b_lora_rank64_lightx2v_4step.safetensors"
_LIGHTX2V_I2V = "wan2.1_i2v_lora_rank64_lightx2v_4step.safetensors"
_FIXANYTHING = "fixanything_lora.safetensors"
_RCM = "rCM_Wan2.1_T2V_1.3B_480p.pt"
# b / a = 80 at first, then the tangents of 1.5, 1.4 and 1.0
_RCM_LEVELS = (80 / 81, *(math.tan(t) / (1.0 + math.tan(t)) for t in (1.5, 1.4, 1.0)))
_FLASH3D = (
    "hub tag MIT, but holds UniDepth (CC BY-NC 4.0) and an encoder of Monodepth2 "
    "(non-commercial): research only"
)


# The first are asked for by name; the rest are parts of others.
KINDS = ("prior", "depth", "initialiser", "finisher", "base", "lora", "student", "image", "text")


@dataclass(frozen=True)
class Model:
    """One row. A model of kind "prior", "depth" or "finisher" can be asked for by its name."""

    name: str
    kind: str  # one of KINDS
    title: str = ""
    factory: str = ""  # "module:function" in its room, called with what that room's rows share

    # files
    repository: str = ""  # on the Hugging Face hub; empty: it has no files of its own
    files: tuple[str, ...] = ()  # patterns of what is needed
    needs: tuple[str, ...] = ()  # files without which the model is not there
    without: tuple[str, ...] = ()  # patterns left out again
    size_gb: float = 0.0  # 1e9 bytes, about
    sha256: dict[str, str] = field(default_factory=dict)  # of known files; a beginning is enough
    parts: tuple[str, ...] = ()  # other rows whose files it needs too
    licence: str = ""  # one line
    commercial_use: bool = True

    # a prior's place: what it was trained on and what it takes
    trained: tuple[int, int] = (0, 0)  # (height, width); 0: any
    most_frames: float = math.inf  # at a time
    multiple: int = 8  # width and height at work must divide by this
    only_size: tuple[int, int] | None = None  # (width, height), if it works at no other
    # GPU memory that must be free for 25 frames of its trained size, idle networks away and in
    # tiles (the largest in 8 bits): `python benchmarks/prior_memory.py`
    least_gib: float = 0.0
    fixed_gib: float = 0.0  # of that, what does not depend on the size: weights on the device
    steps: int = 0  # denoising steps where the user says none
    # 1e12 operations a denoising step for each frame of a megapixel: two runs, each with and
    # without the prompt where it guides; of a finisher, its one step. Measured (on an H100), else
    # a sum by hand.
    operations: float = 0.0
    measured: bool = False
    options: dict[str, float] = field(default_factory=dict)  # figures for its own factory
    # of a distilled prior: noise levels b, a = 1 - b, that it was taught at (none: any), and
    # whether every step noises its guess anew
    levels: tuple[float, ...] = ()
    renoises: bool = False
    starts_from_render: bool = False
    untried: bool = False  # nobody has published what comes of it: chosen by its name alone

    @property
    def work(self) -> float:
        """1e12 operations of a whole clip for each frame of a megapixel."""
        return self.operations * self.steps

    @property
    def sees_render(self) -> bool:
        """Whether its network is shown the render: the others start from the noised one."""
        return self.kind == "prior" and not self.starts_from_render

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of all rows whose files must be there."""
        return ((self.name,) if self.files else ()) + self.parts


def _viewcrafter(name: str, suffix: str, what: str, file: str = "model.ckpt", **rest) -> Model:
    checksum = rest.pop("sha256", "")
    return Model(
        name,
        "prior",
        f"ViewCrafter {what}",
        "viewcrafter.prior:from_settings",
        repository=f"Drexubery/ViewCrafter{suffix}",
        files=(file,),
        needs=(file,),
        size_gb=10.44,
        sha256={file: checksum} if checksum else {},
        licence=_APACHE,
        multiple=64,
        steps=50,
        operations=26.5,
        fixed_gib=3.9,
        **rest,
    )


def _diffusers(name: str, title: str, factory: str, repository: str, **rest) -> Model:
    """A prior in a folder as the library diffusers writes it."""
    return Model(
        name,
        "prior",
        title,
        factory,
        repository=repository,
        files=_DIFFUSERS,
        needs=("model_index.json",),
        **rest,
    )


def _depth(name: str, title: str, function: str, repository: str, **rest) -> Model:
    needs = rest.pop("needs", ("config.json", "model.safetensors"))
    files = rest.pop("files", (*needs, "preprocessor_config.json"))
    return Model(
        name,
        "depth",
        title,
        f"learned:{function}",
        repository=repository,
        files=files,
        needs=needs,
        **rest,
    )


def _difix(name: str, sees: str, licence: str, least_gib: float, operations: float) -> Model:
    return Model(
        name,
        "finisher",
        f"Difix: repairs frames of a finished scene in one step; sees the {sees}",
        "difix:from_settings",
        repository=f"nvidia/{name}",
        files=_DIFFUSERS,
        needs=("model_index.json",),
        size_gb=5.16,
        licence=licence,
        commercial_use=False,
        trained=(576, 1024),
        least_gib=least_gib,
        operations=operations,
    )


MODELS: tuple[Model, ...] = (
    # ---- video priors: those that see the render first, then by quality
    _viewcrafter(
        "viewcrafter_25",
        "_25",
        "25 frames, 576 x 1024 (the paper's)",
        sha256="5676e29d8f9d5b6c",
        trained=(576, 1024),
        most_frames=25,
        measured=True,
        least_gib=7.5,
        options={"base_scale": 0.3},
    ),
    Model(
        "wan_vace_14b_fast",
        "prior",
        "Wan 2.1 VACE 14B, distilled: 4 steps without guidance instead of 30 with it",
        "wan.vace:from_settings",
        parts=("wan_vace_14b", "wan_14b_lightx2v"),
        licence=_APACHE,
        trained=(480, 832),
        most_frames=81,
        multiple=16,
        steps=4,
        operations=150.0,
        least_gib=23.6,
        fixed_gib=20.0,
        options={"shift": 5.0, "guidance": 1.0},
        renoises=True,
    ),
    Model(
        "fixanything",
        "prior",
        "FixAnything: Wan 2.1 I2V 14B, taught to repair renders, 10 steps",
        "wan.fixanything:from_settings",
        parts=("wan_i2v_14b", "wan_vace_1.3b", "wan_image_encoder", "fixanything_lora"),
        licence=_APACHE,
        trained=(480, 832),
        most_frames=61,
        multiple=16,
        steps=10,
        operations=210.0,
        least_gib=21.4,
        fixed_gib=18.9,
        options={"shift": 5.0, "guidance": 5.0, "tail": 4},
    ),
    Model(
        "fixanything_fast",
        "prior",
        "FixAnything with the distilled LoRA of I2V added: 4 steps (nobody has tried the two)",
        "wan.fixanything:from_settings",
        parts=(
            "wan_i2v_14b",
            "wan_vace_1.3b",
            "wan_image_encoder",
            "fixanything_lora",
            "wan_i2v_14b_lightx2v",
        ),
        licence=_APACHE,
        trained=(480, 832),
        most_frames=61,
        multiple=16,
        steps=4,
        operations=105.0,
        least_gib=21.4,
        fixed_gib=18.9,
        options={"shift": 5.0, "guidance": 1.0, "tail": 4},
        renoises=True,
        untried=True,
    ),
    _diffusers(
        "wan_vace_14b",
        "Wan 2.1 VACE 14B",
        "wan.vace:from_settings",
        "Wan-AI/Wan2.1-VACE-14B-diffusers",
        size_gb=46.6,
        licence=_APACHE,
        trained=(720, 1280),
        most_frames=81,
        multiple=16,
        steps=30,
        operations=300.0,
        least_gib=28.2,
        fixed_gib=20.0,
        options={"shift": 5.0},
    ),
    _viewcrafter(
        "viewcrafter_16",
        "_16",
        "16 frames, 576 x 1024",
        sha256="d6f46e70d0297e51",
        trained=(576, 1024),
        most_frames=16,
        least_gib=6.5,
        options={"base_scale": 0.3},
    ),
    _viewcrafter(
        "viewcrafter_25_sparse",
        "_25_sparse",
        "25 frames, sparse views, 576 x 1024",
        "model_sparse.ckpt",
        trained=(576, 1024),
        most_frames=25,
        least_gib=7.5,
        options={"base_scale": 0.3},
    ),
    _diffusers(
        "wan_vace_1.3b",
        "Wan 2.1 VACE 1.3B",
        "wan.vace:from_settings",
        "Wan-AI/Wan2.1-VACE-1.3B-diffusers",
        size_gb=19.0,
        licence=_APACHE,
        trained=(480, 832),
        most_frames=81,
        multiple=16,
        steps=30,
        operations=30.0,
        measured=True,
        least_gib=7.5,
        fixed_gib=5.5,
        options={"shift": 3.0},
    ),
    Model(
        "wan_vace_1.3b_fast",
        "prior",
        "Wan 2.1 VACE 1.3B with rCM's student inside: 4 steps without guidance",
        "wan.vace:from_settings",
        parts=("wan_vace_1.3b", "wan_1.3b_rcm"),
        licence=_APACHE,
        trained=(480, 832),
        most_frames=81,
        multiple=16,
        steps=4,
        operations=15.0,
        least_gib=7.5,
        fixed_gib=5.5,
        options={"shift": 5.0, "guidance": 1.0},
        levels=_RCM_LEVELS,
        renoises=True,
    ),
    Model(
        "wan_fun_inp_1.3b",
        "prior",
        "Wan 2.1 Fun InP 1.3B (needs wan_vace_1.3b and wan_image_encoder too)",
        "wan.inp:from_settings",
        repository="alibaba-pai/Wan2.1-Fun-1.3B-InP",
        files=("diffusion_pytorch_model.safetensors", "config.json"),
        needs=("diffusion_pytorch_model.safetensors", "config.json"),
        size_gb=3.13,
        parts=("wan_vace_1.3b", "wan_image_encoder"),
        licence=_APACHE,
        trained=(480, 832),
        most_frames=81,
        multiple=16,
        steps=30,
        operations=22.0,
        least_gib=5.5,
        fixed_gib=4.2,
    ),
    Model(
        "wan_fun_inp_1.3b_fast",
        "prior",
        "Wan 2.1 Fun InP 1.3B with what rCM's student learned added: 4 steps (nobody has tried it)",
        "wan.inp:from_settings",
        parts=("wan_fun_inp_1.3b", "wan_vace_1.3b", "wan_image_encoder", "wan_1.3b_rcm"),
        licence=_APACHE,
        trained=(480, 832),
        most_frames=81,
        multiple=16,
        steps=4,
        operations=11.0,
        least_gib=5.5,
        fixed_gib=4.2,
        options={"guidance": 1.0},
        levels=_RCM_LEVELS,
        renoises=True,
        untried=True,
    ),
    _viewcrafter(
        "viewcrafter_25_512",
        "_25_512",
        "25 frames, 320 x 512",
        trained=(320, 512),
        most_frames=25,
        least_gib=5.7,
        options={"base_scale": 0.7},
    ),
    _diffusers(
        "ltx",
        "LTX-Video 0.9.5",
        "ltx:from_settings",
        "Lightricks/LTX-Video-0.9.5",
        size_gb=25.0,
        licence=_LTX,
        commercial_use=False,
        trained=(512, 704),
        most_frames=161,
        multiple=64,
        starts_from_render=True,
        steps=40,
        operations=2.4,
        least_gib=5.7,
        fixed_gib=5.0,
    ),
    _diffusers(
        "ltx_13b_fast",
        "LTX-Video 0.9.7 13B, distilled: 3 steps without guidance",
        "ltx:from_settings",
        "Lightricks/LTX-Video-0.9.7-distilled",
        size_gb=46.0,
        licence=_LTX,
        commercial_use=False,
        trained=(480, 832),
        most_frames=161,
        multiple=64,
        starts_from_render=True,
        steps=3,
        operations=7.8,
        least_gib=16.2,
        fixed_gib=15.2,
        options={"guidance": 1.0},
        levels=(0.909375, 0.725, 0.421875),
    ),
    _diffusers(
        "svd",
        "Stable Video Diffusion XT",
        "svd:from_settings",
        "stabilityai/stable-video-diffusion-img2vid-xt",
        without=("*/*model.safetensors",),
        size_gb=4.5,
        licence=_SVD,
        commercial_use=False,
        trained=(576, 1024),
        most_frames=25,
        multiple=64,
        starts_from_render=True,
        steps=25,
        operations=28.0,
        measured=True,
        least_gib=9.7,
        fixed_gib=4.1,
    ),
    _diffusers(
        "cogvideox_i2v",
        "CogVideoX 5B image to video",
        "cogvideox:from_settings",
        "THUDM/CogVideoX-5b-I2V",
        size_gb=21.6,
        licence=_COG,
        commercial_use=False,
        trained=(480, 720),
        most_frames=49,
        multiple=16,
        only_size=(720, 480),
        starts_from_render=True,
        steps=50,
        operations=80.0,
        least_gib=15.0,
        fixed_gib=13.1,
    ),
    Model(
        "patch",
        "prior",
        "Patches of the picture itself: no weights, no GPU",
        "patch.prior:from_settings",
        steps=24,
    ),
    # ---- parts of priors
    Model(
        "wan_image_encoder",
        "image",
        "CLIP image encoder of Wan 2.1 I2V",
        repository="Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
        files=("image_encoder/*",),
        needs=("image_encoder/config.json", "image_encoder/model.safetensors"),
        size_gb=1.3,
        licence=_APACHE,
    ),
    Model(
        "wan_i2v_14b",
        "base",
        "Wan 2.1 I2V 14B, 480p: the network that FixAnything changes",
        repository="Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
        files=("transformer/*.json", "transformer/*.safetensors"),
        needs=(
            "transformer/config.json",
            "transformer/diffusion_pytorch_model.safetensors.index.json",
        ),
        size_gb=65.6,
        licence=_APACHE,
    ),
    Model(
        "fixanything_lora",
        "lora",
        "FixAnything: LoRA of rank 64 for Wan 2.1 I2V 14B",
        repository="kvuong2711/fix-anything",
        files=(_FIXANYTHING,),
        needs=(_FIXANYTHING,),
        size_gb=0.61,
        licence=_APACHE,
    ),
    Model(
        "wan_i2v_14b_lightx2v",
        "lora",
        "Distilled LoRA for Wan 2.1 I2V 14B: 4 steps",
        repository="lightx2v/Wan2.1-Distill-Loras",
        files=(_LIGHTX2V_I2V,),
        needs=(_LIGHTX2V_I2V,),
        size_gb=0.739,
        licence=_APACHE,
    ),
    Model(
        "wan_1.3b_rcm",
        "student",
        "rCM: Wan 2.1 T2V 1.3B distilled to 4 steps",
        repository="worstcoder/rcm-Wan",
        files=(_RCM,),
        needs=(_RCM,),
        size_gb=2.84,
        licence=_APACHE,
    ),
    Model(
        "wan_14b_lightx2v",
        "lora",
        "Distilled LoRA for Wan 2.1 14B: 4 steps",
        repository="lightx2v/Wan2.1-Distill-Loras",
        files=(_LIGHTX2V,),
        needs=(_LIGHTX2V,),
        size_gb=0.631,
        sha256={_LIGHTX2V: "1c918df9eaa102766d8f99104209ce55"},
        licence=_APACHE,
    ),
    Model(
        "clip_tokenizer",
        "text",
        "CLIP's tokenizer, for own prompts with ViewCrafter",
        repository="openai/clip-vit-large-patch14",
        files=("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"),
        needs=("vocab.json", "merges.txt"),
        size_gb=0.002,
        licence=_MIT,
    ),
    # ---- depth: metres with a field of view first, then metres
    _depth(
        "moge_2",
        "MoGe-2 Large: metric depth and field of view",
        "moge",
        "Ruicheng/moge-2-vitl-normal",
        files=("model.pt",),
        needs=("model.pt",),
        size_gb=1.32,
        sha256={"model.pt": "280741fd09bc3f403ccff9967784c2a391b52d2c0742ae3efdb21d9f90cc1a01"},
        licence=_MIT,
    ),
    _depth(
        "depth_pro",
        "Depth Pro: metric depth and field of view",
        "depth_pro",
        "apple/DepthPro-hf",
        size_gb=1.9,
        licence=_APPLE,
        commercial_use=False,
    ),
    _depth(
        "moge_2_small",
        "MoGe-2 Small: metric depth and field of view",
        "moge",
        "Ruicheng/moge-2-vits-normal",
        files=("model.pt",),
        needs=("model.pt",),
        size_gb=0.14,
        licence=_MIT,
    ),
    _depth(
        "depth_anything_3",
        "Depth Anything 3 metric Large",
        "depth_anything_3",
        "depth-anything/DA3METRIC-LARGE",
        files=("model.safetensors", "config.json"),
        needs=("model.safetensors",),
        size_gb=1.34,
        licence=_APACHE,
    ),
    _depth(
        "depth_anything_v2_indoor",
        "Depth Anything V2 metric Small, indoor",
        "depth_anything_v2",
        "depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf",
        size_gb=0.1,
        licence=_APACHE,
    ),
    _depth(
        "depth_anything_v2_outdoor",
        "Depth Anything V2 metric Small, outdoor",
        "depth_anything_v2",
        "depth-anything/Depth-Anything-V2-Metric-Outdoor-Small-hf",
        size_gb=0.1,
        licence=_APACHE,
    ),
    _depth(
        "zoedepth",
        "ZoeDepth, indoor and outdoor",
        "zoedepth",
        "Intel/zoedepth-nyu-kitti",
        size_gb=1.4,
        licence=_MIT,
    ),
    # ---- first Gaussians
    Model(
        "flash3d",
        "initialiser",
        "Flash3D (the paper's initialiser)",
        repository="einsafutdinov/flash3d",
        files=("model_re10k_v2.pth",),
        needs=("model_re10k_v2.pth",),
        size_gb=1.7,
        licence=_FLASH3D,
        commercial_use=False,
    ),
    # ---- repair of the finished scene's frames
    _difix("difix", "render alone", _DIFIX, 4.2, 16.3),
    _difix("difix_ref", "render and picture", _DIFIX_REF, 4.5, 23.0),
)

PRIORS: dict[str, Model] = {row.name: row for row in MODELS if row.kind == "prior"}
DEPTHS: dict[str, Model] = {row.name: row for row in MODELS if row.kind == "depth"}
FINISHERS: dict[str, Model] = {row.name: row for row in MODELS if row.kind == "finisher"}
WITH_FILES: dict[str, Model] = {row.name: row for row in MODELS if row.files}


def prior(name: str) -> Model:
    """The row of a video prior. Raises UserError for a name that is none."""
    if name not in PRIORS:
        raise UserError(f"Unknown video prior: {name}.", f"Choose one of: {', '.join(PRIORS)}.")
    return PRIORS[name]


def needed_gib(row: Model, size: tuple[int, int] | None) -> float:
    """GPU memory that a prior is taken to need at frames of `size` (width, height), None: as
    trained.
    """
    return candidates.needed_gib(row.trained[1], row.fixed_gib, row.least_gib, size)


def factory(row: Model, room: str) -> Callable:
    """The function that makes a model; its module, in `room` ("engine.priors"), is imported
    here.
    """
    import importlib

    module, function = row.factory.split(":")
    return getattr(importlib.import_module(f".{module}", room), function)
