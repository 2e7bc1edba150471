// Camera poses, a smooth path through a few of them, and our camera file. No library, no page.
//
// A pose is {position: [x, y, z], rotation: [x, y, z, w], K: {fx, fy, cx, cy}}: metres, the rotation
// that turns a camera of OpenCV axes (x right, y down, z forward) into the world, K in pixels.
"use strict";

const Paths = (() => {
  const FORMAT = "scene_splatter_camera_path";

  // [12] rows of world_from_camera -> pose; the quaternion of the larger diagonal, so no division
  // is by a small number.
  function poseOf(frame) {
    const [fx, fy, cx, cy, a, b, c, tx, d, e, f, ty, g, h, i, tz] = frame;
    const candidates = [
      [h - f, c - g, d - b, 1 + a + e + i],
      [1 + a - e - i, b + d, c + g, h - f],
      [b + d, 1 - a + e - i, f + h, c - g],
      [c + g, f + h, 1 - a - e + i, d - b],
    ];
    const largest = [a + e + i, a, e, i].map((v, k) => (k ? 2 * v - (a + e + i) : v));
    const q = candidates[largest.indexOf(Math.max(...largest))];
    return { position: [tx, ty, tz], rotation: unit(q), K: { fx, fy, cx, cy } };
  }

  // pose -> world_from_camera as [4][4].
  function matrixOf(pose) {
    const [x, y, z, w] = pose.rotation;
    const [tx, ty, tz] = pose.position;
    return [
      [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w), tx],
      [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w), ty],
      [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y), tz],
      [0, 0, 0, 1],
    ];
  }

  function unit(q) {
    const length = Math.hypot(...q);
    return q.map((v) => v / length);
  }

  // Catmull-Rom through p1 and p2 at t in 0..1; the ends of a path repeat.
  function spline(p0, p1, p2, p3, t) {
    return p1.map((v, k) => {
      const [a, b, c, d] = [p0[k], v, p2[k], p3[k]];
      const cubic = -a + 3 * b - 3 * c + d;
      return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t * t + cubic * t ** 3);
    });
  }

  // Quaternions of one path, each on the side of the one before: q and -q are one rotation.
  function aligned(rotations) {
    const out = [];
    for (const q of rotations) {
      const last = out[out.length - 1];
      const opposite = last && q.reduce((sum, v, k) => sum + v * last[k], 0) < 0;
      out.push(opposite ? q.map((v) => -v) : q);
    }
    return out;
  }

  // Poses of `frames` cameras through `keys`, smooth, at rest at both ends, equally long from key to
  // key. One key gives one pose.
  function smooth(keys, frames) {
    if (keys.length < 2) return keys.slice();
    const rotations = aligned(keys.map((key) => key.rotation));
    const lenses = keys.map((key) => [key.K.fx, key.K.fy, key.K.cx, key.K.cy]);
    const positions = keys.map((key) => key.position);
    const last = keys.length - 1;
    const at = (rows, k, t) =>
      spline(rows[Math.max(k - 1, 0)], rows[k], rows[k + 1], rows[Math.min(k + 2, last)], t);
    return Array.from({ length: frames }, (_, i) => {
      const s = i / Math.max(frames - 1, 1);
      const along = s * s * (3 - 2 * s) * last;
      const k = Math.min(Math.floor(along), last - 1);
      const [fx, fy, cx, cy] = at(lenses, k, along - k);
      return {
        position: at(positions, k, along - k),
        rotation: unit(at(rotations, k, along - k)),
        K: { fx, fy, cx, cy },
      };
    });
  }

  // The JSON of our camera file, which `generate --path` and `render` read.
  function fileOf(poses, width, height, fps) {
    const frames = poses.map((pose) => ({
      K: [
        [pose.K.fx, 0, pose.K.cx],
        [0, pose.K.fy, pose.K.cy],
        [0, 0, 1],
      ],
      world_from_camera: matrixOf(pose),
    }));
    return JSON.stringify({ format: FORMAT, version: 1, fps, width, height, unit: "m", frames }, null, 1);
  }

  // The view in an address: the number of a frame, or a pose; null for a damaged one.
  function viewOf(text) {
    let view;
    try {
      view = JSON.parse(decodeURIComponent(text));
    } catch {
      return null;
    }
    if (Number.isInteger(view)) return view;
    const numbers = (list, count) =>
      Array.isArray(list) && list.length === count && list.every(Number.isFinite);
    const { position, rotation, K } = view ?? {};
    const turned = numbers(rotation, 4) && Math.abs(Math.hypot(...rotation) - 1) < 1e-3;
    const lens = K && numbers([K.fx, K.fy, K.cx, K.cy], 4) && K.fx > 0 && K.fy > 0;
    return numbers(position, 3) && turned && lens ? view : null;
  }

  return { poseOf, matrixOf, smooth, fileOf, viewOf };
})();
