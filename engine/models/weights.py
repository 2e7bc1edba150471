"""Weights of optional models: what there is, under which licence, where it lies, whether it is whole.

Nothing here fetches anything; `download.py` does, when asked. Weights lie in one folder per
model below `folder()`. Files that a user put there by hand count like downloaded ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from ..bridge.errors import UserError

FOLDER_VARIABLE = "SCENE_SPLATTER_WEIGHTS"
MANIFEST = "scene_splatter_files.json"
KEPT_TEXT = "text_"  # how files of text embeddings that are kept beside weights begin
_DIFFUSERS = ("model_index.json", "*/*.json", "*/*.safetensors", "*/*.model", "*/*.txt")


@dataclass(frozen=True)
class Weights:
    """One downloadable model."""

    title: str
    kind: str  # "prior", "lora", "depth", "initialiser", "image" or "text"
    repository: str  # on the Hugging Face hub
    files: tuple[str, ...]  # patterns of what is needed
    needs: tuple[str, ...]  # files without which the model is not there
    size_gb: float  # 1e9 bytes, about
    licence: str  # one line
    commercial_use: bool
    without: tuple[str, ...] = ()  # patterns left out again
    sha256: dict[str, str] = field(default_factory=dict)  # of known files; a beginning is enough


_APACHE = "Apache-2.0: free, also commercially; keep the notice"
_MIT = "MIT: free, also commercially; keep the notice"
_SVD = "Stability AI Community License: commercial use has conditions; read it on the model's page"
_COG = "CogVideoX License: commercial use has conditions; read it on the model's page"
_LTX = "LTX-Video Open Weights License: commercial use has conditions; read it on the model's page"
_APPLE = "Apple Machine Learning Research Model License: research only"


def _viewcrafter(suffix: str, file: str, what: str, sha256: str = "") -> Weights:
    return Weights(
        f"ViewCrafter {what}",
        "prior",
        f"Drexubery/ViewCrafter{suffix}",
        (file,),
        (file,),
        10.44,
        _APACHE,
        True,
        sha256={file: sha256} if sha256 else {},
    )


def _pipeline(
    title: str,
    repository: str,
    size_gb: float,
    licence: str,
    commercial_use: bool,
    without: tuple[str, ...] = (),
) -> Weights:
    needs = ("model_index.json",)
    return Weights(
        title, "prior", repository, _DIFFUSERS, needs, size_gb, licence, commercial_use, without
    )


def _depth(
    title: str, repository: str, size_gb: float, licence: str, commercial_use: bool
) -> Weights:
    needs = ("config.json", "model.safetensors")
    return Weights(
        title,
        "depth",
        repository,
        (*needs, "preprocessor_config.json"),
        needs,
        size_gb,
        licence,
        commercial_use,
    )


def _moge(size: str, suffix: str, size_gb: float, sha256: str = "") -> Weights:
    title, repository = (
        f"MoGe-2 {size}: metric depth and field of view",
        f"Ruicheng/moge-2-{suffix}-normal",
    )
    return Weights(
        title,
        "depth",
        repository,
        ("model.pt",),
        ("model.pt",),
        size_gb,
        _MIT,
        True,
        sha256={"model.pt": sha256} if sha256 else {},
    )


WEIGHTS: dict[str, Weights] = {
    "viewcrafter_25": _viewcrafter(
        "_25", "model.ckpt", "25 frames, 576 x 1024 (the paper's)", "5676e29d8f9d5b6c"
    ),
    "viewcrafter_25_sparse": _viewcrafter(
        "_25_sparse", "model_sparse.ckpt", "25 frames, sparse views, 576 x 1024"
    ),
    "viewcrafter_16": _viewcrafter(
        "_16", "model.ckpt", "16 frames, 576 x 1024", "d6f46e70d0297e51"
    ),
    "viewcrafter_25_512": _viewcrafter("_25_512", "model.ckpt", "25 frames, 320 x 512"),
    "wan_vace_1.3b": _pipeline(
        "Wan 2.1 VACE 1.3B", "Wan-AI/Wan2.1-VACE-1.3B-diffusers", 19.0, _APACHE, True
    ),
    "wan_vace_14b": _pipeline(
        "Wan 2.1 VACE 14B", "Wan-AI/Wan2.1-VACE-14B-diffusers", 46.6, _APACHE, True
    ),
    "wan_fun_inp_1.3b": Weights(
        "Wan 2.1 Fun InP 1.3B (needs wan_vace_1.3b and wan_image_encoder too)",
        "prior",
        "alibaba-pai/Wan2.1-Fun-1.3B-InP",
        ("diffusion_pytorch_model.safetensors", "config.json"),
        ("diffusion_pytorch_model.safetensors", "config.json"),
        3.13,
        _APACHE,
        True,
    ),
    "wan_image_encoder": Weights(
        "CLIP image encoder of Wan 2.1 I2V",
        "image",
        "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
        ("image_encoder/*",),
        ("image_encoder/config.json", "image_encoder/model.safetensors"),
        1.3,
        _APACHE,
        True,
    ),
    "wan_14b_lightx2v": Weights(
        "Distilled LoRA for Wan 2.1 14B: 4 steps",
        "lora",
        "lightx2v/Wan2.1-Distill-Loras",
        ("wan2.1_t2v_14b_lora_rank64_lightx2v_4step.safetensors",),
        ("wan2.1_t2v_14b_lora_rank64_lightx2v_4step.safetensors",),
        0.631,
        _APACHE,
        True,
        sha256={
            "wan2.1_t2v_14b_lora_rank64_lightx2v_4step.safetensors": "1c918df9eaa102766d8f99104209ce55"
        },
    ),
    "svd": _pipeline(
        "Stable Video Diffusion XT",
        "stabilityai/stable-video-diffusion-img2vid-xt",
        4.5,
        _SVD,
        False,
        without=("*/*model.safetensors",),
    ),
    "cogvideox_i2v": _pipeline(
        "CogVideoX 5B image to video", "THUDM/CogVideoX-5b-I2V", 21.6, _COG, False
    ),
    "ltx": _pipeline("LTX-Video 0.9.5", "Lightricks/LTX-Video-0.9.5", 25.0, _LTX, False),
    "moge_2": _moge(
        "Large", "vitl", 1.32, "280741fd09bc3f403ccff9967784c2a391b52d2c0742ae3efdb21d9f90cc1a01"
    ),
    "moge_2_small": _moge("Small", "vits", 0.14),
    "depth_anything_3": Weights(
        "Depth Anything 3 metric Large",
        "depth",
        "depth-anything/DA3METRIC-LARGE",
        ("model.safetensors", "config.json"),
        ("model.safetensors",),
        1.34,
        _APACHE,
        True,
    ),
    "depth_anything_v2_indoor": _depth(
        "Depth Anything V2 metric Small, indoor",
        "depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf",
        0.1,
        _APACHE,
        True,
    ),
    "depth_anything_v2_outdoor": _depth(
        "Depth Anything V2 metric Small, outdoor",
        "depth-anything/Depth-Anything-V2-Metric-Outdoor-Small-hf",
        0.1,
        _APACHE,
        True,
    ),
    "zoedepth": _depth("ZoeDepth, indoor and outdoor", "Intel/zoedepth-nyu-kitti", 1.4, _MIT, True),
    "depth_pro": _depth(
        "Depth Pro: metric depth and field of view", "apple/DepthPro-hf", 1.9, _APPLE, False
    ),
    "flash3d": Weights(
        "Flash3D (the paper's initialiser)",
        "initialiser",
        "einsafutdinov/flash3d",
        ("model_re10k_v2.pth",),
        ("model_re10k_v2.pth",),
        1.7,
        "hub tag MIT, but holds UniDepth (CC BY-NC 4.0) and an encoder of Monodepth2 (non-commercial): research only",
        False,
    ),
    "clip_tokenizer": Weights(
        "CLIP's tokenizer, for own prompts with ViewCrafter",
        "text",
        "openai/clip-vit-large-patch14",
        ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"),
        ("vocab.json", "merges.txt"),
        0.002,
        _MIT,
        True,
    ),
}


def folder() -> Path:
    """Where weights are kept: $SCENE_SPLATTER_WEIGHTS, else the user's cache folder."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "scene_splatter" / "weights"


def known(name: str) -> Weights:
    """The entry of a model. Raises UserError for a name that is none."""
    if name not in WEIGHTS:
        raise UserError(f"Unknown weights: {name}.", f"Choose one of: {', '.join(WEIGHTS)}.")
    return WEIGHTS[name]


def missing(name: str) -> list[str]:
    """Files that should be there and are not, or are shorter than they should be; [] if the model can be used."""
    entry, home = known(name), folder() / name
    try:
        listed = manifest(home)
    except UserError:  # one damaged model is no reason for the others not to be used
        return [MANIFEST]
    if not listed and _by_another_name(name) is not None:
        return []
    wanted = {file: facts["size"] for file, facts in listed.items()} or dict.fromkeys(
        entry.needs, 0
    )
    return [
        file
        for file, size in wanted.items()
        if not (home / file).is_file() or (home / file).stat().st_size < size
    ]


def require(name: str) -> Path:
    """The folder of a model whose files are there. Raises UserError, saying how to get them, otherwise."""
    entry, home = known(name), folder() / name
    if home.is_file():
        raise UserError(
            f"{home} is a file, not a folder of weights.",
            f"Put the file into a folder of that name: {home}/{entry.needs[0]}.",
        )
    if (home / entry.needs[0]).is_dir():
        inside = ", ".join(sorted(p.name for p in (home / entry.needs[0]).iterdir())[:3])
        raise UserError(
            f"{home / entry.needs[0]} is a folder, not the file of that name.",
            f"Put the file itself into {home}{f' (the folder holds {inside})' if inside else ''}.",
        )
    if missing(name):
        begun = (
            " The download is not finished." if home.is_dir() and any(home.rglob("*.part")) else ""
        )
        raise UserError(
            f"Weights not found: {entry.title} ({entry.size_gb:g} GB; {entry.licence}).{begun}",
            f"Run: python -m engine weights download {name} - or press Download in the add-on's preferences. Place: {home}",
        )
    return home


def checkpoint_in(name: str, home: Path) -> Path:
    """The one file of a single-file model: the released name, else any one checkpoint in its folder."""
    for wanted in known(name).needs:
        if (home / wanted).is_file():
            return home / wanted
    other = _by_another_name(name)
    if other is None:
        raise UserError(
            f"No checkpoint in {home}.", f"Run: python -m engine weights download {name}"
        )
    return other


def _by_another_name(name: str) -> Path | None:
    """The one checkpoint in a single-file model's folder, if it was put there by hand under another name."""
    entry, home = known(name), folder() / name
    ending = Path(entry.needs[0]).suffix
    if len(entry.needs) > 1 or ending == ".json" or (home / entry.needs[0]).exists():
        return None
    found = [p for p in home.glob(f"*{ending}") if p.is_file() and not p.name.startswith(KEPT_TEXT)]
    return found[0] if len(found) == 1 else None


def selected(name: str, files: list[str]) -> list[str]:
    """Those of a repository's files that the model needs."""
    entry = known(name)
    return [
        f
        for f in files
        if any(fnmatch(f, p) for p in entry.files) and not any(fnmatch(f, p) for p in entry.without)
    ]


def manifest(home: Path) -> dict[str, dict]:
    """{file: {"size", "sha256" or "sha1"}} as the download left it; {} if the files were put there by hand."""
    path = home / MANIFEST
    if not path.is_file():
        return {}
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        for facts in files.values():
            if type(facts["size"]) is not int or not isinstance(
                facts.get("sha256", facts.get("sha1")), str
            ):
                raise ValueError("a file without size or checksum")
        return files
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged.", "Delete it and download again; files that are whole are kept."
        ) from error


def digest(path: Path, kind: str, step: Callable[[int], None] = lambda size: None) -> str:
    """Checksum of a file as the hub gives it: "sha256" of the content, or "sha1" of git's blob."""
    git_head = b"blob %d\0" % path.stat().st_size
    state = hashlib.sha256() if kind == "sha256" else hashlib.sha1(git_head, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            state.update(block)
            step(len(block))
    return state.hexdigest()


def verify(name: str, step: Callable[[int], None] = lambda size: None) -> list[str]:
    """Read every file and compare checksums; a list of what is wrong, [] if nothing. `step(bytes read)` may raise to stop."""
    entry, home = known(name), folder() / name
    absent = missing(name)
    problems = [f"{file} is missing or too short" for file in absent]
    expected = {file: ("sha256", value) for file, value in entry.sha256.items()}
    for file, facts in manifest(home).items():
        expected[file] = (
            ("sha256", facts["sha256"]) if "sha256" in facts else ("sha1", facts["sha1"])
        )
    other = None if absent else _by_another_name(name)
    for file, (kind, value) in expected.items():
        if file not in absent and not digest(other or home / file, kind, step).startswith(value):
            problems.append(f"{file} has another checksum than the released file")
    return problems


def checksums(name: str) -> dict[str, str]:
    """SHA-256 of a model's large files, as far as it is known: of the released files, or as the download noted it; some are beginnings."""
    noted = {
        file: facts["sha256"]
        for file, facts in manifest(folder() / name).items()
        if "sha256" in facts
    }
    return {**known(name).sha256, **noted}


def verifiable(name: str) -> bool:
    """Whether any checksum is known for this model."""
    return bool(known(name).sha256 or manifest(folder() / name))
