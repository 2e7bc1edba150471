"""Warp kernels that draw Gaussians: project, bound, list, blend, and the gradient of blending.

The gradient of projecting is Warp's own adjoint of `project`. Notation as in `cpu.project`: H =
R_camera R_q S, T = J H, screen covariance T T^T + blur (Zwicker et al. 2001, EWA splatting; Kerbl
et al. 2023). A Gaussian's record is x, y, A, B, C, opacity, then its channels, with the conic (A B;
B C).

Cost of blending on CUDA, C channels, L = 6 + C floats a record, one block of 256 threads a tile of
16 x 16 pixels:

    forward    reads 4 L bytes a Gaussian and tile (staged once in shared memory), 16 to 20 + 2 C
    operations a pixel
               of it, writes 4 (C + 1) bytes a pixel
    backward   the same reads, about 40 + 4 C operations a pixel, and one sum over the block: 5 L
    shuffles a warp, 8 L
               floats through shared memory, L atomic additions a Gaussian and tile (a fused one a
               pixel would be 256 L)
    sort       16 bytes a Gaussian and tile, eight passes over 64-bit keys

At a million Gaussians, three tiles each and C = 5, that is 0.13 GB read for each direction and
about 0.4 GB for the sort: memory is not the limit on any card from Turing on, the operations of
blending are.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import warp as wp

from .. import constants

TILE = 16  # px, both ways
PX = TILE * TILE  # threads of a block on CUDA, and Gaussians staged at once there
CPU_STAGE = 16  # Gaussians staged at once on Warp's CPU device, whose blocks are one thread
GEOMETRY = 6  # floats of a record before its channels

_TILE, _PX, _GEOMETRY = wp.constant(TILE), wp.constant(PX), wp.constant(GEOMETRY)
_ALPHA_MIN = wp.constant(float(constants.ALPHA_MIN))
_ALPHA_MAX = wp.constant(float(constants.ALPHA_MAX))
_T_MIN = wp.constant(float(constants.T_MIN))
_LARGEST = wp.constant(1e37)
_C0 = wp.constant(0.28209479177387814)
_C1 = wp.constant(0.4886025119029199)
_C2A, _C2B = wp.constant(1.0925484305920792), wp.constant(0.31539156525252005)
_C2C = wp.constant(0.5462742152960396)
_C3A, _C3B = wp.constant(0.5900435899266435), wp.constant(2.890611442640554)
_C3C, _C3D = wp.constant(0.4570457994644658), wp.constant(0.3731763325901154)
_C3E = wp.constant(1.445305721320277)


@wp.func
def to_linear(c: float):
    """IEC 61966-2-1 decoding of one non-negative value."""
    out = c * wp.static(1.0 / 12.92)
    if c > 0.04045:
        out = wp.pow((c + 0.055) * wp.static(1.0 / 1.055), 2.4)
    return out


@wp.func
def degree_1(d: wp.vec3, r: wp.array2d(dtype=wp.vec3), i: int):
    return -_C1 * d[1] * r[i, 0] + _C1 * d[2] * r[i, 1] - _C1 * d[0] * r[i, 2]


@wp.func
def degree_2(d: wp.vec3, r: wp.array2d(dtype=wp.vec3), i: int):
    x, y, z = d[0], d[1], d[2]
    return (
        _C2A * x * y * r[i, 3]
        - _C2A * y * z * r[i, 4]
        + _C2B * (2.0 * z * z - x * x - y * y) * r[i, 5]
        - _C2A * x * z * r[i, 6]
        + _C2C * (x * x - y * y) * r[i, 7]
    )


@wp.func
def degree_3(d: wp.vec3, r: wp.array2d(dtype=wp.vec3), i: int):
    x, y, z = d[0], d[1], d[2]
    xx, yy, zz = x * x, y * y, z * z
    return (
        -_C3A * y * (3.0 * xx - yy) * r[i, 8]
        + _C3B * x * y * z * r[i, 9]
        - _C3C * y * (4.0 * zz - xx - yy) * r[i, 10]
        + _C3D * z * (2.0 * zz - 3.0 * xx - 3.0 * yy) * r[i, 11]
        - _C3C * x * (4.0 * zz - xx - yy) * r[i, 12]
        + _C3E * z * (xx - yy) * r[i, 13]
        - _C3A * x * (xx - 3.0 * yy) * r[i, 14]
    )


@wp.struct
class Camera:
    """One camera and what is drawn with it."""

    R: wp.mat33  # camera from world
    t: wp.vec3
    centre: wp.vec3  # world
    focal: wp.vec2  # px
    principal: wp.vec2  # px
    low: wp.vec2  # limits of the slope at which the projection is linearised
    high: wp.vec2
    near: float
    blur: float  # px^2
    degree: int  # of spherical harmonics
    antialiased: int
    linear: int
    depth: int


@wp.kernel(module="unique")
def project(
    means: wp.array(dtype=wp.vec3),
    quats: wp.array(dtype=wp.vec4),
    scales_log: wp.array(dtype=wp.vec3),
    opacities_logit: wp.array(dtype=float),
    sh_dc: wp.array(dtype=wp.vec3),
    sh_rest: wp.array2d(dtype=wp.vec3),
    extra: wp.array2d(dtype=float),
    offsets_px: wp.array(dtype=wp.vec2),
    cameras: wp.array(dtype=Camera),
    records: wp.array2d(dtype=float),
    reach: wp.array(dtype=wp.vec4),
):
    """Fill each Gaussian's record, and reach = (half width, half height, depth, 0); depth 0 means
    not seen.
    """
    i = wp.tid()
    camera = cameras[0]
    m = camera.R @ means[i] + camera.t
    if m[2] >= camera.near:
        q = quats[i] / wp.length(quats[i])
        w, x, y, z = q[0], q[1], q[2], q[3]
        rotation = wp.mat33(
            1.0 - 2.0 * (y * y + z * z),
            2.0 * (x * y - w * z),
            2.0 * (x * z + w * y),
            2.0 * (x * y + w * z),
            1.0 - 2.0 * (x * x + z * z),
            2.0 * (y * z - w * x),
            2.0 * (x * z - w * y),
            2.0 * (y * z + w * x),
            1.0 - 2.0 * (x * x + y * y),
        )
        s = scales_log[i]
        h = camera.R @ rotation @ wp.diag(wp.vec3(wp.exp(s[0]), wp.exp(s[1]), wp.exp(s[2])))
        rz = 1.0 / m[2]
        slope = wp.vec2(m[0] * rz, m[1] * rz)
        sx = wp.min(wp.max(slope[0], camera.low[0]), camera.high[0])
        sy = wp.min(wp.max(slope[1], camera.low[1]), camera.high[1])
        fx, fy = camera.focal[0] * rz, camera.focal[1] * rz
        a0 = fx * (wp.vec3(h[0, 0], h[0, 1], h[0, 2]) - sx * wp.vec3(h[2, 0], h[2, 1], h[2, 2]))
        a1 = fy * (wp.vec3(h[1, 0], h[1, 1], h[1, 2]) - sy * wp.vec3(h[2, 0], h[2, 1], h[2, 2]))
        # det(T T^T) = |T_0 x T_1|^2 stays exact for needles, where ac - b^2 cancels
        cross = wp.cross(a0, a1)
        det0 = wp.dot(cross, cross)
        va, vb, vc = wp.dot(a0, a0), wp.dot(a0, a1), wp.dot(a1, a1)
        det = det0 + camera.blur * (va + vc) + camera.blur * camera.blur
        if det > 0.0 and det < _LARGEST:
            opacity = 1.0 / (1.0 + wp.exp(-opacities_logit[i]))
            if camera.antialiased != 0:
                opacity = opacity * wp.sqrt(wp.max(det0 / det, 1e-12))
            u = camera.focal[0] * slope[0] + camera.principal[0]
            v = camera.focal[1] * slope[1] + camera.principal[1]
            if offsets_px.shape[0] > 0:
                u = u + offsets_px[i][0]
                v = v + offsets_px[i][1]
            colour = wp.vec3(0.5, 0.5, 0.5) + _C0 * sh_dc[i]
            if camera.degree > 0:
                toward = means[i] - camera.centre
                d = toward / wp.sqrt(wp.max(wp.dot(toward, toward), 1e-24))
                colour = colour + degree_1(d, sh_rest, i)
                if camera.degree > 1:
                    colour = colour + degree_2(d, sh_rest, i)
                if camera.degree > 2:
                    colour = colour + degree_3(d, sh_rest, i)
            red, green, blue = (
                wp.max(colour[0], 0.0),
                wp.max(colour[1], 0.0),
                wp.max(colour[2], 0.0),
            )
            if camera.linear != 0:
                red, green, blue = to_linear(red), to_linear(green), to_linear(blue)
            records[i, 0] = u
            records[i, 1] = v
            records[i, 2] = (vc + camera.blur) / det
            records[i, 3] = -vb / det
            records[i, 4] = (va + camera.blur) / det
            records[i, 5] = opacity
            records[i, 6] = red
            records[i, 7] = green
            records[i, 8] = blue
            at = _GEOMETRY + 3
            if camera.depth != 0:
                records[i, at] = m[2]
                at = at + 1
            for k in range(extra.shape[1]):
                records[i, at + k] = extra[i, k]
            if opacity >= _ALPHA_MIN:
                s_max = wp.log(opacity * 255.0)
                ex = wp.sqrt(2.0 * s_max * (va + camera.blur)) * 1.0001 + 0.001
                ey = wp.sqrt(2.0 * s_max * (vc + camera.blur)) * 1.0001 + 0.001
                reach[i] = wp.vec4(ex, ey, m[2], 0.0)


@wp.kernel(enable_backward=False, module="unique")
def bound(
    records: wp.array2d(dtype=float),
    reach: wp.array(dtype=wp.vec4),
    width: int,
    height: int,
    rects: wp.array(dtype=wp.vec4i),
    counts: wp.array(dtype=int),
    radii: wp.array(dtype=float),
):
    """Tiles (x, y, width, height) whose pixel centres a Gaussian's box holds, how many, and its
    radius in pixels.
    """
    i = wp.tid()
    r = reach[i]
    counts[i] = 0
    radii[i] = 0.0
    if r[2] > 0.0:
        x, y = records[i, 0] - 0.5, records[i, 1] - 0.5
        w, h = float(width - 1), float(height - 1)
        left, right = wp.max(x - r[0], 0.0), wp.min(x + r[0], w)
        upper, lower = wp.max(y - r[1], 0.0), wp.min(y + r[1], h)
        if left <= right and upper <= lower and right >= 0.0 and lower >= 0.0:
            x0, x1 = int(wp.ceil(left)), int(wp.floor(right))
            y0, y1 = int(wp.ceil(upper)), int(wp.floor(lower))
            if x0 <= x1 and y0 <= y1:
                tx, ty = x0 // _TILE, y0 // _TILE
                tw, th = x1 // _TILE - tx + 1, y1 // _TILE - ty + 1
                rects[i] = wp.vec4i(tx, ty, tw, th)
                counts[i] = tw * th
                radii[i] = wp.max(r[0], r[1])


@wp.kernel(enable_backward=False, module="unique")
def list_pairs(
    reach: wp.array(dtype=wp.vec4),
    rects: wp.array(dtype=wp.vec4i),
    counts: wp.array(dtype=int),
    stops: wp.array(dtype=wp.int64),
    tiles_x: int,
    keys: wp.array(dtype=wp.int64),
    owners: wp.array(dtype=int),
):
    """One key (tile, then depth) and one owner for every tile that a Gaussian touches; in the order
    of Gaussians.
    """
    i = wp.tid()
    if counts[i] > 0:
        at = stops[i] - wp.int64(counts[i])
        near = wp.int64(wp.cast(reach[i][2], wp.uint32))
        rect = rects[i]
        for y in range(rect[1], rect[1] + rect[3]):
            for x in range(rect[0], rect[0] + rect[2]):
                keys[at] = (wp.int64(y * tiles_x + x) << wp.int64(32)) | near
                owners[at] = i
                at = at + wp.int64(1)


@wp.kernel(enable_backward=False, module="unique")
def start_tiles(keys: wp.array(dtype=wp.int64), count: int, first: wp.array(dtype=int)):
    """first[t] = place of tile t's first pair in the sorted keys; one thread for every tile and one
    more.
    """
    tile = wp.tid()
    wanted = wp.int64(tile) << wp.int64(32)
    low = int(0)
    high = int(count)
    while low < high:
        middle = (low + high) // 2
        if keys[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    first[tile] = low


class Blending(NamedTuple):
    """Kernels for a number of channels, and how many Gaussians they stage at once."""

    forward: wp.Kernel
    backward: wp.Kernel
    stage: int


def _add_over_block(length: int) -> Any:
    """A native function: add a vector of every thread of the block to a row of `sums`, with one
    atomic a number.

    Every thread of the block must come here, as often as the others. `turn` picks one of two
    buffers, so that one barrier a call is enough beside that of the vote.
    """
    cuda = f"""
    #if defined(__CUDA_ARCH__)
    __shared__ float parts[2][{PX // 32}][{length}];
    if (!__syncthreads_or(touched)) return;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, half = turn & 1;
    #pragma unroll
    for (int k = 0; k < {length}; ++k) {{
        float total = v[k];
        #pragma unroll
        for (int o = 16; o > 0; o >>= 1) total += __shfl_xor_sync(0xffffffffu, total, o);
        if (lane == 0) parts[half][warp][k] = total;
    }}
    __syncthreads();
    if (threadIdx.x < {length}) {{
        float total = 0.0f;
        #pragma unroll
        for (int w = 0; w < {PX // 32}; ++w) total += parts[half][w][threadIdx.x];
        if (total != 0.0f) atomicAdd(&sums.data[(size_t)row * {length} + threadIdx.x], total);
    }}
    #else
    if (touched) for (int k = 0; k < {length}; ++k) sums.data[(size_t)row * {length} + k] += v[k];
    #endif
    """
    vector = wp.types.vector(length=length, dtype=wp.float32)

    def add_over_block(sums, row, turn, touched, v): ...

    add_over_block.__annotations__ = {
        "sums": wp.array(dtype=float),
        "row": int,
        "turn": int,
        "touched": int,
        "v": vector,
    }
    return wp.func_native(cuda)(add_over_block), vector


@functools.cache
def blending(channels: int, cuda: bool) -> Blending:
    """The two kernels for a number of channels; compiled by Warp at their first launch and kept in
    its cache.
    """
    length = GEOMETRY + channels
    stage = PX if cuda else CPU_STAGE
    STAGE, LENGTH, CHANNELS = wp.constant(stage), wp.constant(length), wp.constant(channels)
    Colour = wp.types.vector(length=channels, dtype=wp.float32)
    add_over_block, Sums = _add_over_block(length)

    @wp.kernel(enable_backward=False, module="unique")
    def forward(
        records: wp.array2d(dtype=float),
        ids: wp.array(dtype=int),
        first: wp.array(dtype=int),
        width: int,
        height: int,
        tiles_x: int,
        image: wp.array2d(dtype=float),  # [channels + 1, h w], alpha last
    ):
        tid = wp.tid()
        tile = tid // _PX
        local = tid - tile * _PX
        ty = tile // tiles_x
        px, py = (tile - ty * tiles_x) * _TILE + local % _TILE, ty * _TILE + local // _TILE
        x, y = float(px) + 0.5, float(py) + 0.5
        inside = px < width and py < height
        alive = int(0)
        if inside:
            alive = int(1)
        light = float(1.0)
        total = Colour()
        j = int(first[tile])
        end = first[tile + 1]
        while j < end:
            voices = wp.tile_sum(wp.tile(alive))
            if voices[0] == 0:
                break
            rows = wp.tile_load(ids, shape=STAGE, offset=j, storage="shared")
            staged = wp.tile_load_indexed(
                records, indices=rows, shape=(STAGE, LENGTH), axis=0, storage="shared"
            )
            count = wp.min(STAGE, end - j)
            for b in range(count):
                dx, dy = x - staged[b, 0], y - staged[b, 1]
                s = 0.5 * (staged[b, 2] * dx * dx + staged[b, 4] * dy * dy) + staged[b, 3] * dx * dy
                raw = staged[b, 5] * wp.exp(-wp.max(s, 0.0))
                if alive == 1 and raw >= _ALPHA_MIN:
                    a = wp.min(raw, _ALPHA_MAX)
                    rest = light - light * a
                    if rest > _T_MIN:
                        weight = light * a
                        for k in range(CHANNELS):
                            total[k] += weight * staged[b, _GEOMETRY + k]
                        light = rest
                    else:
                        alive = int(0)
            j += STAGE
        if inside:
            at = py * width + px
            for k in range(CHANNELS):
                image[k, at] = total[k]
            image[CHANNELS, at] = 1.0 - light

    @wp.kernel(enable_backward=False, module="unique")
    def backward(
        records: wp.array2d(dtype=float),
        ids: wp.array(dtype=int),
        first: wp.array(dtype=int),
        width: int,
        height: int,
        tiles_x: int,
        image: wp.array2d(dtype=float),
        gradient: wp.array2d(dtype=float),  # [channels + 1, h w] of the image
        sums: wp.array(dtype=float),  # [n length], receives the gradient of the records
    ):
        # Front to back like `forward`, from the stored image: with q = g . colour and R what is
        # still to come,
        # dL/da = T q - R / (1 - a). So a pixel ends where it ended in `forward`, and no list of it
        # is kept.
        tid = wp.tid()
        tile = tid // _PX
        local = tid - tile * _PX
        ty = tile // tiles_x
        px, py = (tile - ty * tiles_x) * _TILE + local % _TILE, ty * _TILE + local // _TILE
        x, y = float(px) + 0.5, float(py) + 0.5
        alive = int(0)
        light = float(1.0)
        coming = float(0.0)
        g = Colour()
        if px < width and py < height:
            alive = int(1)
            at = py * width + px
            coming = -gradient[CHANNELS, at] * (1.0 - image[CHANNELS, at])
            for k in range(CHANNELS):
                g[k] = gradient[k, at]
                coming += gradient[k, at] * image[k, at]
        j = int(first[tile])
        end = first[tile + 1]
        while j < end:
            voices = wp.tile_sum(wp.tile(alive))
            if voices[0] == 0:
                break
            rows = wp.tile_load(ids, shape=STAGE, offset=j, storage="shared")
            staged = wp.tile_load_indexed(
                records, indices=rows, shape=(STAGE, LENGTH), axis=0, storage="shared"
            )
            count = wp.min(STAGE, end - j)
            for b in range(count):
                v = Sums()
                touched = int(0)
                dx, dy = x - staged[b, 0], y - staged[b, 1]
                s = 0.5 * (staged[b, 2] * dx * dx + staged[b, 4] * dy * dy) + staged[b, 3] * dx * dy
                e = wp.exp(-wp.max(s, 0.0))
                raw = staged[b, 5] * e
                if alive == 1 and raw >= _ALPHA_MIN:
                    a = wp.min(raw, _ALPHA_MAX)
                    rest = light - light * a
                    if rest > _T_MIN:
                        touched = int(1)
                        weight = light * a
                        q = float(0.0)
                        for k in range(CHANNELS):
                            q += g[k] * staged[b, _GEOMETRY + k]
                            v[_GEOMETRY + k] = weight * g[k]
                        coming -= weight * q
                        if raw <= _ALPHA_MAX:
                            da = light * q - coming / (1.0 - a)
                            ds = -da * raw
                            v[0] = -ds * (staged[b, 2] * dx + staged[b, 3] * dy)
                            v[1] = -ds * (staged[b, 3] * dx + staged[b, 4] * dy)
                            v[2] = 0.5 * ds * dx * dx
                            v[3] = ds * dx * dy
                            v[4] = 0.5 * ds * dy * dy
                            v[5] = da * e
                        light = rest
                    else:
                        alive = int(0)
                add_over_block(sums, rows[b], b, touched, v)
            j += STAGE

    return Blending(forward, backward, stage)


class Figures(NamedTuple):
    """What one compiled kernel takes of a multiprocessor."""

    registers: int  # of a thread
    stack_bytes: int  # of a thread; above 0 where registers were spilled
    shared_bytes: int  # of a block, fixed at compile time


def compile_for(
    arch: int, channels: int, folder: Path, others: Sequence[wp.Kernel] = ()
) -> dict[str, Figures]:
    """Compile every kernel that draws, and `others`, for a compute capability (75, 86, ...) into
    `folder`; no GPU is needed. Figures by kernel.
    """
    blend = blending(channels, cuda=True)
    kernels = [project, bound, list_pairs, start_tiles, blend.forward, blend.backward]
    kernels += others
    found: dict[str, Figures] = {}
    for kernel in kernels:
        module = kernel.module
        for file in wp.compile_aot_module(
            module, arch=arch, module_dir=str(folder), use_ptx=False, strip_hash=False
        ):
            found |= figures_of(Path(file).read_bytes())
    return found


_REGISTERS, _FRAME = 0x2F, 0x11  # attributes of a cubin's .nv.info: register count, stack frame


def figures_of(cubin: bytes) -> dict[str, Figures]:
    """Figures of the kernels in a cubin, an ELF file of 64 bits. Raises ValueError for anything
    else.
    """
    if cubin[:5] != b"\x7fELF\x02":
        raise ValueError("not a cubin: expected a 64-bit ELF file")
    (table,) = struct.unpack_from("<Q", cubin, 40)
    size, count, names_at = struct.unpack_from("<HHH", cubin, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", cubin, table + k * size) for k in range(count)]

    def text(section: tuple, offset: int) -> str:
        start = section[4] + offset
        return cubin[start : cubin.index(b"\0", start)].decode()

    named = {text(sections[names_at], s[0]): s for s in sections}
    symbols = [
        text(named[".strtab"], struct.unpack_from("<I", cubin, at)[0])
        for at in range(named[".symtab"][4], sum(named[".symtab"][4:6]), 24)
    ]
    registers: dict[str, int] = {}
    frames: dict[str, int] = {}
    at, end = named[".nv.info"][4], sum(named[".nv.info"][4:6])
    while at < end:
        kind, attribute = cubin[at], cubin[at + 1]
        if kind != 4:  # a value within the entry itself
            at += 4
            continue
        (length,) = struct.unpack_from("<H", cubin, at + 2)
        if attribute in (_REGISTERS, _FRAME) and length == 8:
            symbol, value = struct.unpack_from("<II", cubin, at + 4)
            (registers if attribute == _REGISTERS else frames)[symbols[symbol]] = value
        at += 4 + length
    shared = {n.removeprefix(".nv.shared."): s[5] for n, s in named.items()}
    return {
        name: Figures(value, frames.get(name, 0), shared.get(name, 0))
        for name, value in registers.items()
    }
