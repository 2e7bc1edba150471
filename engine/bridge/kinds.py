"""What a foreign file is, by its first bytes: recognised before any reader tries it, and named with
its remedy.

Shared with Blender: standard library only. `refuse_foreign` is the first thing that a reader does.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from .errors import UserError
from .reading import head_of

_JPEG = "Open it in a picture program and save it as JPEG or PNG."
_SPLATS = "Export the scene as a Gaussian splat file: .ply, .spz, .splat, .sog, .glb or .usdz."


class Kind(NamedTuple):
    """A kind of file."""

    name: str  # with its article: "a HEIF photo"
    group: str  # picture, film, raw, splats, stage, mesh, points, table, archive, page, checkpoint
    remedy: str  # what to do with it when it is not of use here


_REMEDIES = {  # by group, unless the name below has one of its own
    "foreign picture": _JPEG,
    "raw": "Develop it (in a raw converter or a photo program), and save it as JPEG or 16-bit PNG.",
    "film": "Save one frame of it as PNG, and give that.",
    "picture": "Give it as the picture; it holds no scene and no cameras.",
    "mesh": _SPLATS,
    "points": "Train splats from it first (3DGS takes a point cloud as its start), or give the "
    "trained .ply.",
    "other splats": "Convert it to .ply or .spz with the tool that it came from, or in a splat "
    "editor.",
    "archive": "Unpack it, and give the file that is in it.",
    "checkpoint": "Save what is in it in a plain form: .ply for splats, .npz for arrays.",
    "splats": "Give it where splats are asked for.",
    "stage": "Give it where a scene is asked for.",
    "scene": "Open it in Blender, and export from there.",
    "cameras": "Export the cameras as a COLMAP text model.",
    "page": "Download the file itself: a page holds no more than a link to it.",
    "table": "Arrays are taken as depth maps (.npy) and as cameras (.npz with w2c and intrinsics).",
    "document": "Export it in one of the formats of the README.",
}
_OWN_REMEDIES = {
    "a Git LFS pointer": "It stands for the file: fetch that with git lfs pull.",
    "a Radiance HDR picture": "Save it as EXR, or as PNG with 16 bits.",
    "a HEIF photo": "Save it as JPEG: phones do so when they share a photo, "
    "picture programs on export.",
    "a server's answer": "Download it again; check the address and your access.",
    "empty: zeros alone at its start": "The download was cut short: download or copy it again.",
    "an HDF5 file": "Save its arrays with numpy.savez.",
    "an SVG drawing": "Save it as PNG.",
    "a PDF document": "Save the picture in it as PNG.",
    "a 3D Tiles tileset": "Export one scene of it as .ply, .spz or .glb.",
}
_PICKLE = "a Python pickle (it can run code, and is never opened)"
# (name, group, bytes, where they stand); the first that fits counts
_MAGIC: tuple[tuple[str, str, bytes, int], ...] = (
    ("a Git LFS pointer", "page", b"version https://git-lfs", 0),
    ("a JPEG XL picture", "foreign picture", b"\xff\x0a", 0),
    ("a JPEG XL picture", "foreign picture", b"\0\0\0\x0cJXL \r\n\x87\n", 0),
    ("a Radiance HDR picture", "foreign picture", b"#?RADIANCE", 0),
    ("a Radiance HDR picture", "foreign picture", b"#?RGBE", 0),
    ("a raw photo (Canon CR3)", "raw", b"ftypcrx", 4),
    ("a raw photo (Canon CR2)", "raw", b"CR\x02", 8),
    ("a raw photo (Fujifilm RAF)", "raw", b"FUJIFILMCCD-RAW", 0),
    ("a raw photo (Panasonic RW2)", "raw", b"IIU\0", 0),
    ("a raw photo (Olympus ORF)", "raw", b"IIRO", 0),
    ("a raw photo (Olympus ORF)", "raw", b"IIRS", 0),
    ("a raw photo (Sigma X3F)", "raw", b"FOVb", 0),
    ("a raw photo (Minolta MRW)", "raw", b"\0MRM", 0),
    ("a GIMP picture", "foreign picture", b"gimp xcf", 0),
    ("a portable float map (PFM)", "foreign picture", b"PF\n", 0),
    ("a portable float map (PFM)", "foreign picture", b"Pf\n", 0),
    ("a KTX texture", "foreign picture", b"\xabKTX ", 0),
    ("a DPX picture", "foreign picture", b"SDPX", 0),
    ("a DPX picture", "foreign picture", b"XPDS", 0),
    ("a Cineon picture", "foreign picture", b"\x80\x2a\x5f\xd7", 0),
    ("a FITS picture", "foreign picture", b"SIMPLE  =", 0),
    ("a BPG picture", "foreign picture", b"BPG\xfb", 0),
    ("a FLIF picture", "foreign picture", b"FLIF", 0),
    ("a JPEG XR picture", "foreign picture", b"II\xbc\x01", 0),
    ("a DICOM picture", "foreign picture", b"DICM", 128),
    ("a PostScript drawing", "foreign picture", b"%!PS", 0),
    ("a Krita picture", "foreign picture", b"mimetypeapplication/x-krita", 30),
    ("an OpenRaster picture", "foreign picture", b"mimetypeimage/openraster", 30),
    ("a film", "film", b"\x1aE\xdf\xa3", 0),
    ("a film", "film", b"AVI LIST", 8),
    ("a JPEG photo", "picture", b"\xff\xd8\xff", 0),
    ("a PNG picture", "picture", b"\x89PNG\r\n\x1a\n", 0),
    ("a WebP picture", "picture", b"WEBP", 8),
    ("a GIF picture", "picture", b"GIF8", 0),
    ("a TIFF picture", "picture", b"II*\0", 0),
    ("a TIFF picture", "picture", b"MM\0*", 0),
    ("a BigTIFF picture", "picture", b"II+\0", 0),
    ("an EXR picture", "picture", b"\x76\x2f\x31\x01", 0),
    ("a Photoshop file", "picture", b"8BPS", 0),
    ("a PDF document", "document", b"%PDF", 0),
    ("a Blender file", "scene", b"BLENDER", 0),
    ("an FBX file", "mesh", b"Kaydara FBX", 0),
    ("an Alembic file", "mesh", b"Ogawa", 0),
    ("a Draco file", "mesh", b"DRACO", 0),
    ("a point cloud (LAS or LAZ)", "points", b"LASF", 0),
    ("a point cloud (E57)", "points", b"ASTM-E57", 0),
    ("a point cloud (PCD)", "points", b"# .PCD", 0),
    ("a point cloud (PCD)", "points", b"VERSION .7", 0),
    ("a splat scene of Lixel (LCC)", "other splats", b"XLCC", 0),
    ("an OpenVDB volume", "mesh", b" BDV", 0),
    ("an HDF5 file", "table", b"\x89HDF\r\n", 0),
    ("a NumPy array", "table", b"\x93NUMPY", 0),
    ("a 7-Zip archive", "archive", b"7z\xbc\xaf\x27\x1c", 0),
    ("a RAR archive", "archive", b"Rar!", 0),
    ("an xz archive", "archive", b"\xfd7zXZ", 0),
    ("a bzip2 archive", "archive", b"BZh", 0),
    ("a Zstandard archive", "archive", b"\x28\xb5\x2f\xfd", 0),
    ("a tar archive", "archive", b"ustar", 257),
    (_PICKLE, "checkpoint", b"\x80\x02", 0),
    (_PICKLE, "checkpoint", b"\x80\x03", 0),
    (_PICKLE, "checkpoint", b"\x80\x04", 0),
    (_PICKLE, "checkpoint", b"\x80\x05", 0),
    ("a 3DGS .ply", "splats", b"ply\n", 0),
    ("a 3DGS .ply", "splats", b"ply\r", 0),
    ("an SPZ scene", "splats", b"NGSP", 0),
    ("a glTF scene", "stage", b"glTF", 0),
    ("a USD scene", "stage", b"PXR-USDC", 0),
    ("a USD scene", "stage", b"#usda", 0),
)
_RAW_ENDINGS = (
    ".dng .nef .nrw .arw .srf .sr2 .cr2 .cr3 .crw .pef .orf .rw2 .raf .3fr .fff .iiq .rwl .srw .x3f"
    " .erf .kdc .dcr .mef .mos"
)
_ENDINGS = (
    ("a HEIF photo", "foreign picture", ".heic .heif .hif"),
    ("a JPEG XL picture", "foreign picture", ".jxl"),
    ("a film", "film", ".mp4 .mov .avi .mkv .webm .m4v"),
    ("a mesh", "mesh", ".obj .stl .3ds .dae .off .abc .fbx"),
    ("a point cloud", "points", ".xyz .pts .las .laz .e57 .pcd .asc"),
    (
        "a training checkpoint (it can run code, and is never opened)",
        "checkpoint",
        ".pth .pt .ckpt",
    ),
    (_PICKLE, "checkpoint", ".pkl .pickle"),
    ("a Blender file", "scene", ".blend .blend1"),
    ("a splat format that is not read here", "other splats", ".lcc .lcc2 .splatv .spx .rad .dlz"),
)
_CAMERAS = (  # other programs' cameras, by how their text begins
    (rb"NVM_V3", "a VisualSFM file (NVM)"),
    (rb"# ?bundle file", "a Bundler file"),
    (rb"#?(image)?name,\s*x,\s*y,\s*(z|alt)", "a table of camera places (RealityCapture)"),
    (rb'\{[^{}\[\]]*"sfm_data_version"', "an OpenMVG scene"),
    (rb'\{[^{}]*"version"[^{}]*"featuresFolders"', "a Meshroom scene"),
    (rb'\[?\s*\{\s*"(cameras|shots)"\s*:\s*\{[^\[]*"projection_type"', "an OpenSfM reconstruction"),
    (rb'\{[^{}\[\]]*"t_00"', "a Polycam camera"),
)
_HEIF_BRANDS = set(b"heic heix hevc hevx heim heis hevm hevs mif1 msf1".split())
_MARKUP = re.compile(rb"\s*(<!doctype html|<html|<head|<body|<script)", re.I)
_ANSWERS = re.compile(
    rb"\s*(40[0-9]|50[0-9])?[:\s]*(not found|access denied|forbidden|unauthorized|bad gateway)",
    re.I,
)
_ANSWER_MARKUP = re.compile(rb"\s*(<\?xml[^>]*>\s*)?<Error>|\s*\{\s*\"(error|detail)\"\s*:", re.I)
_TILES = re.compile(rb'\s*\{\s*"asset"[^\[]*"geometricError"')


def _made(name: str, group: str) -> Kind:
    return Kind(name, group, _OWN_REMEDIES.get(name, _REMEDIES[group]))


def kind_of(head: bytes, name: str = "") -> Kind | None:
    """The kind that the first 512 bytes of a file tell, helped by the ending of its name; None when
    they tell nothing.
    """
    ending = Path(name).suffix.lower()
    if head[4:8] == b"ftyp" and head[8:11] != b"crx":
        return _iso_media(head)
    for kind, group, magic, at in _MAGIC:
        if head[at : at + len(magic)] == magic:
            if "TIFF" in kind and ending and ending in _RAW_ENDINGS.split():
                return _made(f"a raw photo ({ending[1:].upper()})", "raw")
            return _made(kind, group)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):  # text of two bytes a letter
        head = head.replace(b"\0", b"")[2:]
    text = _kind_of_text(head.removeprefix(b"\xef\xbb\xbf"))
    if text is not None:
        return text
    if len(head) >= 64 and not head[:64].strip(b"\0"):
        return _made("empty: zeros alone at its start", "page")
    if ending and ending in _RAW_ENDINGS.split():
        return _made(f"a raw photo ({ending[1:].upper()})", "raw")
    return next(
        (_made(kind, group) for kind, group, all in _ENDINGS if ending in all.split()), None
    )


def _kind_of_text(start: bytes) -> Kind | None:
    if _MARKUP.match(start):
        return _made("a web page", "page")
    if (_ANSWERS.match(start) and len(start) < 400) or _ANSWER_MARKUP.match(start):
        return _made("a server's answer", "page")
    if re.match(rb"\s*(<\?xml|<svg|<document)", start):
        return _made("an SVG drawing" if b"<svg" in start else "an XML file", "document")
    if _TILES.match(start):
        return _made("a 3D Tiles tileset", "other splats")
    for pattern, name in _CAMERAS:
        if re.match(rb"\s*" + pattern, start, re.I):
            return _made(name, "cameras")
    return None


def _iso_media(head: bytes) -> Kind:
    """HEIF, AVIF or a film, by the brands of an ISO media file."""
    size = int.from_bytes(head[:4], "big")
    brands = {head[i : i + 4] for i in range(16, min(size, len(head)) - 3, 4)} | {head[8:12]}
    if brands & {b"avif", b"avis"}:
        return _made("an AVIF picture", "picture")
    return (
        _made("a HEIF photo", "foreign picture")
        if brands & _HEIF_BRANDS
        else _made("a film", "film")
    )


def refuse_foreign(
    path: str | os.PathLike[str], wanted: str, groups: tuple[str, ...], head: bytes | None = None
) -> None:
    """Raise a UserError that names what `path` is, when its kind is known and in none of `groups`.

    `wanted` says what was asked for: "a picture that can be read", "a camera path".
    """
    kind = kind_of(head_of(path) if head is None else head, os.fspath(path))
    if kind is not None and kind.group not in groups:
        raise UserError(f"{path} is {kind.name}, not {wanted}.", kind.remedy)
