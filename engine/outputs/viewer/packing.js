// The bytes of packing.py, as the uncompressed SPZ file that they were made of.
"use strict";

const Packing = (() => {
  const HEAD = 16;
  const FULL = 511;
  const KEPT = 127;

  function unpacked(bytes) {
    const n = new DataView(bytes.buffer, bytes.byteOffset).getUint32(8, true);
    const out = new Uint8Array(bytes.length);
    out.set(bytes.subarray(0, HEAD));
    let from = HEAD;
    const take = (count) => bytes.subarray(from, (from += count));
    positions(take(9 * n), out.subarray(HEAD), n);
    out.set(take(n), HEAD + 9 * n);
    colours(take(3 * n), out.subarray(HEAD + 10 * n));
    scales(take(3 * n), out.subarray(HEAD + 13 * n), n);
    rotations(take(4 * n), out.subarray(HEAD + 16 * n), n);
    out.set(bytes.subarray(from), from);
    return out;
  }

  function positions(planes, out, n) {
    for (let axis = 0; axis < 3; axis += 1) {
      const [low, middle, high] = [0, 1, 2].map((k) => planes.subarray((3 * axis + k) * n));
      let value = 0;
      for (let i = 0; i < n; i += 1) {
        const zigzag = low[i] | (middle[i] << 8) | (high[i] << 16);
        value += (zigzag >>> 1) ^ -(zigzag & 1);
        const at = 9 * i + 3 * axis;
        out[at] = value;
        out[at + 1] = value >> 8;
        out[at + 2] = value >> 16;
      }
    }
  }

  function colours(steps, out) {
    for (let i = 0; i < steps.length; i += 1) out[i] = steps[i] + (i < 3 ? 0 : out[i - 3]);
  }

  function scales(planes, out, n) {
    for (let i = 0; i < 3 * n; i += 1) out[3 * (i % n) + Math.floor(i / n)] = planes[i];
  }

  function rotations(planes, out, n) {
    const words = new DataView(out.buffer, out.byteOffset);
    for (let i = 0; i < n; i += 1) {
      let word = planes[i];
      for (let k = 1; k < 4; k += 1) {
        const value = (planes[k * n + i] << 24) >> 24;
        const size = Math.round((Math.abs(value) * FULL) / KEPT);
        word = (word << 10) | (value < 0 ? 512 : 0) | size;
      }
      words.setUint32(4 * i, word >>> 0, true);
    }
  }

  return { unpacked };
})();
