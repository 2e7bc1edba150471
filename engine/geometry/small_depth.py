"""The depth source named "small": a network of our own that ships with the program.

Its answer is coarse. It is the median of a few looks at the picture (mirrored, enlarged, in other
light); where the looks disagree or the network doubts, it is drawn towards a plain layout that
is fitted to it. The result is brought to the picture's size along the picture's own edges.

Metres: the floor lies as far below the camera as the user says (`camera_height`), else 1.6 m, the
height of an eye. Where no floor is seen, they are those that the network learned. Either way half
of the picture is at least 1.5 m and at most 40 m away, unless the user gave the height.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from ..bridge.settings import GeometrySettings
from ..models import tensor_file
from .base import DepthEstimate
from .guided import along_edges
from .layout import Layout, fit_layout
from .lines import CameraLines, camera_from_lines
from .networks.small import MULTIPLE, Look, SmallDepth, ray_field

WEIGHTS = Path(__file__).parent / "small_depth.safetensors"
LICENCE = "GPL-3.0-or-later"
PIXELS = 6144  # of the network's input
_LONGEST = 4.0  # longer over shorter side of the input; longer pictures are squeezed
_GUESSED_LENS = 0.866  # focal length over the longer side: 60 degrees
_LENSES = (0.35, 4.0)  # a guess outside is not to be believed
_TRUST = 0.3  # error of log depth at which network and layout count alike
_MOST_DRAWN_IN = 0.4  # of the middle inverse depth, added to all
_SKY_MAYBE, _SKY_SURE, _SKY_LEAST = 0.5, 0.7, 0.01  # chances; share of the picture
_NEAREST_M, _FARTHEST_M = 0.05, 1000.0
_SKY_WIDE = 0.25  # share of the width
_SKY_BEHIND = 3.0  # times the far end of what is seen
_EYE_M = 1.6  # of the camera above the floor, where the user does not say
_MIDDLE_M = (1.5, 40.0)  # the middle of the picture's depth, where the user does not say
_FLOOR_SEEN = 0.03  # share of the picture from which a floor can settle the scale

# When to say that an answer is not to be trusted.
_FLAT = 0.02  # standard deviation of the picture's grey
TINY = 48  # pixels of the shorter side
_LONG = 2.2  # longer over shorter side: unlike anything in training
_UNSURE = 0.5  # mean doubt of log depth
_APART_DEG = 14.0  # between the horizon of the lines and that of the network
_TOO_CLOSE = 0.12  # metres, for more than a hundredth of the picture
_DARK = 0.02


def input_size(height: int, width: int, pixels: int = PIXELS) -> tuple[int, int]:
    """(height, width) of the network's input for a picture of this size."""
    aspect = min(max(width / height, 1 / _LONGEST), _LONGEST)
    h = math.sqrt(pixels / aspect)
    return tuple(max(round(side / MULTIPLE), 3) * MULTIPLE for side in (h, h * aspect))  # type: ignore[return-value]


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in one order, whatever the machine's threads: the same bits every time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def look(network: SmallDepth, image: Tensor, focal: float | None) -> Look:
    """The network's answer for image [3, h, w] in 0..1; focal length over the longer side, if
    known.
    """
    answers = []
    known = torch.tensor([0.0 if focal is None else 1.0])
    lens = torch.tensor([_GUESSED_LENS if focal is None else focal])
    height, width = image.shape[1:]
    h0, w0 = input_size(height, width)
    for enlarged in (1.0, 1.4):
        h, w = input_size(height, width, int(PIXELS * enlarged**2))
        small = F.interpolate(
            image[None], size=(h, w), mode="bilinear", antialias=True, align_corners=False
        )
        for gamma in (1.0, 0.7):
            for mirrored in (False, True):
                seen = small**gamma
                seen = seen.flip(3) if mirrored else seen
                a = network(seen.contiguous(), ray_field(lens, known, h, w))
                maps = torch.stack([a.log_depth[0], a.log_doubt[0].exp(), torch.sigmoid(a.sky[0])])
                maps = maps.flip(2) if mirrored else maps
                maps = F.interpolate(
                    maps[None], size=(h0, w0), mode="bilinear", antialias=True, align_corners=False
                )[0]
                camera = a.camera[0].clone()
                camera[1] = -camera[1] if mirrored else camera[1]
                answers.append((maps, camera))
    maps = torch.stack([m for m, _ in answers])
    depth = maps[:, 0]
    middle = depth.flatten(1).median(1).values
    depth = depth - middle[:, None, None] + middle.median()
    typical = depth.median(0).values
    apart = (depth - typical).abs().mean(0)
    camera = torch.stack([c for _, c in answers]).median(0).values
    return Look(
        typical,
        maps[:, 1].mean(0) + apart,
        maps[:, 2].mean(0),
        float(camera[0]),
        float(camera[1]),
        float(camera[2].exp()),
        float(camera[3].exp()),
        float(camera[5].exp()),
    )


class Small:
    """A depth source (see base.py) that needs no download."""

    name = "small network"
    licence = LICENCE
    lens_is_a_guess = True

    def __init__(self, network: SmallDepth, settings: GeometrySettings) -> None:
        self.network, self.settings = network, settings
        self._last: tuple[Tensor, float | None, Look] | None = None

    @_one_thread()
    def intrinsics(self, image: Tensor) -> Tensor:
        """K [3, 3] for image [3, h, w]: from the picture's lines where they tell, else the
        network's guess.
        """
        lines = camera_from_lines(image)
        focal = (
            lines.focal if lines is not None and lines.lens_sure else self._look(image, None).focal
        )
        h, w = image.shape[1:]
        focal = min(max(focal, _LENSES[0]), _LENSES[1]) * max(h, w)
        return torch.tensor([[focal, 0.0, 0.5 * w], [0.0, focal, 0.5 * h], [0.0, 0.0, 1.0]])

    @_one_thread()
    def estimate(self, image: Tensor, K_hint: Tensor | None) -> DepthEstimate:
        h, w = image.shape[1:]
        K = (self.intrinsics(image) if K_hint is None else K_hint).cpu()
        focal = float(K[0, 0] * K[1, 1]) ** 0.5 / max(h, w)
        answer = self._look(image, focal)
        lines = camera_from_lines(image, focal)
        if lines is not None and lines.sure:
            layout = fit_layout(answer, focal, lines.pitch, math.radians(1.5))
        else:
            layout = fit_layout(answer, focal, answer.pitch, max(answer.pitch_doubt, 0.05))
        depth, sky = _full_size(steadied(answer, layout), answer.sky, image)
        seen = depth[~sky] if bool((~sky).any()) else depth
        metres, rule = _scale(layout, self.settings.camera_height, float(seen.median()))
        depth = (depth * metres).clamp(_NEAREST_M, _FARTHEST_M)
        notes = [rule, *warnings(image, answer, layout, lines, depth, focal)]
        if bool(sky.any()) and not bool(sky.all()):
            # Not endlessly far: the network may take a bright wall for sky, and a wall far off is
            # no hole.
            far = float(depth[~sky].flatten()[:: max(depth.numel() // 100_000, 1)].quantile(0.95))
            depth = depth.masked_fill(sky, _SKY_BEHIND * far)
            notes.append(
                f"{100.0 * float(sky.float().mean()):.0f} % of the picture taken as sky and put "
                f"{_SKY_BEHIND:g} times as far as the rest"
            )
        return DepthEstimate(
            depth.to(image.device),
            K if K_hint is None else K_hint,
            True,
            self.licence,
            self.name,
            tuple(notes),
            _GUESS.format(_percent(answer)),
        )

    def _look(self, image: Tensor, focal: float | None) -> Look:
        """The network's answer, kept: lens and depth of a picture are asked for one after the
        other.
        """
        if self._last is None or self._last[0] is not image or self._last[1] != focal:
            self._last = (image, focal, look(self.network, image.float().cpu(), focal))
        return self._last[2]


_GUESS = (
    "The depth is a guess by the small network that comes with the program; by its own account it "
    "is wrong by about {} % at a typical place."
)


def _percent(answer: Look) -> int:
    return round(100 * math.expm1(min(float(answer.doubt.median()), 1.5)))


def _scale(layout: Layout, camera_height: float, middle_m: float) -> tuple[float, str]:
    """(factor on the network's metres, the sentence that states the rule).

    `middle_m` is the median of the depth in the network's metres.
    """
    floor_seen = float(layout.floor.float().mean()) >= _FLOOR_SEEN
    if camera_height > 0 and floor_seen:
        return (
            camera_height / layout.height,
            f"metres from camera_height: the floor is {camera_height:g} m below the camera",
        )
    if camera_height > 0:
        return camera_height / layout.height, (
            f"camera_height {camera_height:g} m sets the scale, but hardly any floor is seen: "
            "the scale may be off"
        )
    factor = _EYE_M / layout.height if floor_seen else 1.0
    rule = f"the floor is taken to be {_EYE_M} m below the camera"
    if not floor_seen:
        rule = "no floor is seen, they are as the network learned them"
    kept = min(max(factor * middle_m, _MIDDLE_M[0]), _MIDDLE_M[1]) / middle_m
    if abs(kept / factor - 1.0) > 1e-6:
        rule = f"half of the picture is taken to be {kept * middle_m:.1f} m away or farther"
    return kept, f"metres: {rule}; set camera_height if you know it"


def steadied(answer: Look, layout: Layout) -> Tensor:
    """Log depth [h, w] of the network, drawn to the layout and in from afar where its doubt is
    large.

    Drawing in adds to inverse depth, so that planes stay planes and straight lines straight: a
    distance that is only guessed costs more if it is too long than if it is too short.
    """
    share = answer.doubt**2 / (answer.doubt**2 + _TRUST**2)
    inverse = torch.exp(-torch.lerp(answer.log_depth, layout.log_depth, share))
    middle = inverse.median()
    more = min(float(answer.doubt.median()), _MOST_DRAWN_IN)
    return -torch.log((inverse + more * middle) / (1.0 + more))


def _full_size(log_depth: Tensor, sky: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """(depth [h, w], whether it is sky [h, w]) at the picture's size."""
    open_sky = _whole_sky(sky)
    if bool((~open_sky).any()):  # the sky has no depth of its own to give to its neighbours
        log_depth = torch.where(open_sky, log_depth[~open_sky].max(), log_depth)
    fine = along_edges(torch.stack([log_depth, open_sky.float()]), image.float().cpu())
    return fine[0].exp(), fine[1] > 0.5


def _whole_sky(sky: Tensor) -> Tensor:
    """Where the chance of sky [h, w] makes a whole: areas that are likely all over and sure
    somewhere; bool [h, w].

    A hole where there is none costs more than a far wall.
    """
    areas, count = ndimage.label(sky.numpy() > _SKY_MAYBE)
    kept = torch.zeros_like(sky, dtype=torch.bool)
    for k in range(1, count + 1):
        area = torch.from_numpy(areas == k)
        wide = float(area.any(0).float().mean()) > _SKY_WIDE  # a window is narrower
        sure = float(sky[area].max()) > _SKY_SURE
        if wide and sure and float(area.float().mean()) > _SKY_LEAST:
            kept |= area
    return kept


def warnings(
    image: Tensor,
    answer: Look,
    layout: Layout,
    lines: CameraLines | None,
    depth: Tensor,
    focal: float,
) -> list[str]:
    """Sentences on a depth that is not to be trusted: picture [3, h, w], depth [h, w] metres,
    lens over the longer side.
    """
    h, w = image.shape[1:]
    grey, found = image.float().mean(0), []
    if min(h, w) < TINY:
        found.append(f"NOT TO BE TRUSTED: the picture has only {w} x {h} pixels")
    if float(grey.std()) < _FLAT:
        found.append(
            "NOT TO BE TRUSTED: the picture is nearly of one colour, nothing in it tells of depth"
        )
    elif float(grey.mean()) < _DARK:
        found.append("NOT TO BE TRUSTED: the picture is nearly black")
    if max(h, w) > _LONG * min(h, w):
        found.append(
            "NOT TO BE TRUSTED: the picture is longer than any the network was trained on; a "
            "panorama bends "
            "what a plain lens keeps straight. Crop it"
        )
    if _round(grey):
        found.append(
            "NOT TO BE TRUSTED: dark corners round a bright disc, as a fisheye lens makes; "
            "undistort the picture first"
        )
    if float(answer.doubt.median()) > _UNSURE:
        found.append(
            "NOT TO BE TRUSTED: the picture is unlike what the network was trained on, its looks "
            "at it disagree"
        )
    if lines is not None and lines.sure:
        apart = abs(math.degrees(lines.pitch - answer.pitch))
        if apart > _APART_DEG:
            found.append(
                f"the network's horizon and that of the picture's lines are {apart:.0f} degrees "
                "apart; the lines were followed"
            )
    near = float((depth < _TOO_CLOSE).float().mean())
    if near > 0.01:
        found.append(
            f"CANNOT BE RIGHT: {100 * near:.0f} % of the picture lies within {_TOO_CLOSE:g} m, a "
            "wall through the camera"
        )
    if (rise := _floor_above_horizon(depth, layout, focal)) > 0.25:
        found.append(
            f"CANNOT BE RIGHT: the floor rises towards the camera over {100 * rise:.0f} % of the "
            "columns"
        )
    return found


def _round(grey: Tensor) -> bool:
    """Whether black corners lie round a disc that fills the picture's height."""
    h, w = grey.shape
    a, b = max(h // 12, 1), max(w // 12, 1)
    corners = torch.stack([grey[:a, :b], grey[:a, -b:], grey[-a:, :b], grey[-a:, -b:]])
    sides = torch.stack([grey[:a, w // 2], grey[-a:, w // 2]])
    return bool(corners.mean((1, 2)).max() < 0.04) and float(sides.mean()) > 0.1


def _floor_above_horizon(depth: Tensor, layout: Layout, focal: float) -> float:
    """Share of the columns whose lowest part lies farther away than what is seen above it, up to
    the horizon.
    """
    h, w = depth.shape
    horizon = min(max(0.5 - math.tan(layout.pitch) * focal * max(h, w) / h, 0.0), 0.7)
    top = int(h * (horizon + 0.35 * (1 - horizon)))
    above, below = depth[top : (top + h) // 2], depth[(top + h) // 2 :]
    if above.shape[0] < 2 or below.shape[0] < 2:
        return 0.0
    return float((below.median(0).values > 1.25 * above.median(0).values).float().mean())


def load(path: Path | None = None, settings: GeometrySettings | None = None) -> Small:
    """The source with the weights of `path`, or those that ship. Raises UserError for a damaged
    file.
    """
    path = path or WEIGHTS
    again = "Install the extension again."
    network = SmallDepth()
    state = tensor_file.read(path, again)
    tensor_file.fill(network, state.get("mean", state), torch.float32, path.name, again)
    return Small(network, settings or GeometrySettings())
