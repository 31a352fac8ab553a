// The scales and tiles at which a picture is searched: mien.recognition.detection, with the same numbers.

import { part, resizeReduced, round } from "./pixels.js";

const SMALLEST = 12;
const SMALLEST_GREY = 24;
const LARGEST_SMALLEST = 32;
const PIXELS = 450_000;
const FEW = 90_000;
const FEW_SCALE = 0.75;
const SMALL_GAIN = 1.25;
const STEP = 3;
const COARSEST = 400;
const OVERLAP = 128;
const ROOM = 0.1;
const LONGEST = 1152;
const SLIVER = 0.25;
const UNIT = 32;
const BAND_PIXELS = 1 << 23;
const SAMPLED_ROWS = 2.5;

/**
 * Tiles {left, top, right, bottom, width, height, finest} of a search, the finest scale first; none if the picture is
 * too thin to hold a face. The work, padding included, is bounded by the pixels of the picture, whatever its shape.
 * @param {number} minFace side in pixels of the smallest face to find.
 */
export function plan(height, width, minFace, isGrey) {
  if (Math.min(height, width) < SLIVER * minFace) return [];
  let scale = Math.min((PIXELS / (height * width)) ** 0.5, LARGEST_SMALLEST / minFace);
  if (height * width < FEW) scale = Math.min(scale, FEW_SCALE);
  else if (scale > 1 && scale <= SMALL_GAIN) scale = 1;
  scale = Math.max(scale, (isGrey ? SMALLEST_GREY : SMALLEST) / minFace);
  // It holds no face whole, and nearly all of a tile could be padding: that is not worth more than a usual search.
  if (Math.min(height, width) < minFace) scale = Math.min(scale, PIXELS / (UNIT * Math.max(height, width)));
  const tiles = [];
  while (Math.max(height, width) * scale > COARSEST) {
    const finest = tiles.length === 0;
    tiles.push(...tilesOf(height, width, scale).map((tile) => ({ ...tile, finest })));
    scale /= STEP;
  }
  tiles.push({ ...whole(height, width, scale), finest: tiles.length === 0 });
  return tiles;
}

/** One coarse look at the whole picture, for live pictures: its longer side has at most `longest` pixels. */
export function quickPlan(height, width, longest) {
  return [whole(height, width, Math.min(1, longest / Math.max(height, width)))];
}

function whole(height, width, scale) {
  return {
    left: 0, top: 0, right: width, bottom: height,
    width: Math.max(1, round(width * scale)), height: Math.max(1, round(height * scale)),
  };
}

function tilesOf(height, width, scale) {
  const wide = Math.max(1, round(width * scale));
  const high = Math.max(1, round(height * scale));
  let across = parts(wide);
  let down = parts(high);
  if (across === 1 && down === 1) [across, down] = wide > high ? [2, 1] : [1, 2];
  const tiles = [];
  for (const [top, bottom] of spans(high, down)) {
    for (const [left, right] of spans(wide, across)) {
      tiles.push({
        left: Math.floor((left * width) / wide), top: Math.floor((top * height) / high),
        right: Math.ceil((right * width) / wide), bottom: Math.ceil((bottom * height) / high),
        width: right - left, height: bottom - top,
      });
    }
  }
  return tiles;
}

function parts(length) {
  return Math.max(1, Math.ceil((length - OVERLAP) / (LONGEST - OVERLAP)));
}

function spans(length, count) {
  const size = Math.min(length, Math.ceil((length + (count - 1) * OVERLAP) / count));
  return Array.from({ length: count }, (_, index) => {
    const start = round((index * (length - size)) / Math.max(count - 1, 1));
    return [start, start + size];
  });
}

export function tilePixels(picture, tile) {
  return resized(part(picture, tile.left, tile.top, tile.right, tile.bottom), tile.width, tile.height);
}

/** Drops the boxes of faces that an inner edge of the tile cuts off. Rows are [left, top, width, height, ...]. */
export function uncut(tile, rows, height, width) {
  return rows.filter((row) => {
    const room = ROOM * Math.max(row[2], row[3]);
    const isCut =
      (row[0] < room && tile.left > 0) || (row[1] < room && tile.top > 0) ||
      (row[0] + row[2] > tile.width - room && tile.right < width) ||
      (row[1] + row[3] > tile.height - room && tile.bottom < height);
    return !isCut;
  });
}

/** Converts rows from pixels of the tile to pixels of the picture. */
export function placed(tile, rows) {
  const across = (tile.right - tile.left) / tile.width;
  const down = (tile.bottom - tile.top) / tile.height;
  return rows.map(([left, top, width, height, ...rest]) => [
    left * across + tile.left, top * down + tile.top, width * across, height * down, ...rest,
  ]);
}

/** Resizes: box filter to a smaller size, bilinear to a larger one; in bands, as the Python code does. */
export function resized(picture, width, height) {
  if (picture.width === width && picture.height === height) return picture;
  const rowStep = Math.max(1, Math.trunc(picture.height / height / SAMPLED_ROWS));
  const sampled = rowStep === 1 ? picture : part(picture, 0, 0, picture.width, picture.height, rowStep);
  const rows = sampled.height;
  const filter = rows * sampled.width > height * width ? "box" : "bilinear";
  const bands = Math.min(height, Math.ceil((rows * sampled.width) / BAND_PIXELS));
  if (bands <= 1) return resizeReduced(sampled, width, height, filter);
  const data = new Uint8Array(width * height * picture.channels);
  for (let band = 0; band < bands; band++) {
    const first = Math.floor((band * height) / bands);
    const last = Math.floor(((band + 1) * height) / bands);
    const top = Math.floor((first * rows) / height);
    const bottom = Math.max(Math.floor((last * rows) / height), top + 1);
    const region = part(sampled, 0, top, sampled.width, bottom);
    data.set(resizeReduced(region, width, last - first, filter).data, first * width * picture.channels);
  }
  return { data, width, height, channels: picture.channels };
}
