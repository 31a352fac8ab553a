// Cuts faces out as FER2013 frames them: mien.recognition.detection, with the same numbers.

import { part, resample, toGrey } from "./pixels.js";
import { MARGIN } from "./yunet.js";

const NEAR = 1e-6;

/**
 * The middle of the frame around a face, as the network reads it.
 * @param detection {box, whole} of the detector.
 * @param model {imageSize, faceSize, grey}.
 * @returns a picture of imageSize x imageSize pixels.
 */
export function faceCrop(picture, detection, model) {
  const frame = cut(picture, detection.whole ?? detection.box, model.faceSize, model.grey);
  const edge = (model.faceSize - model.imageSize) / 2;
  const crop = part(frame, edge, edge, edge + model.imageSize, edge + model.imageSize);
  return { ...crop, data: crop.data.slice() };
}

function cut(picture, box, size, grey) {
  const { width, height } = picture;
  const [left, top, side] = square(box, width, height);
  // The filter reads beyond the square by its radius: real pixels of the picture, as far as there are any.
  const radius = Math.max(1, side / size);
  const columns = span(left, side, radius, width);
  const rows = span(top, side, radius, height);
  const region = padded(part(picture, columns.low, rows.low, columns.high, rows.high), columns, rows);
  const x = left - (columns.low - columns.before);
  const y = top - (rows.low - rows.before);
  const bounds = [
    Math.max(0, x), Math.max(0, y), Math.min(region.width, x + side), Math.min(region.height, y + side),
  ];
  const frame = resample(region, size, size, "bilinear", bounds);
  return grey ? toGrey(frame) : toRgb(frame);
}

/** Left, top and side of the square that frames a face; one that an edge cuts off goes on beyond that edge. */
function square([left, top, width, height], pictureWidth, pictureHeight) {
  const longer = Math.max(width, height);
  return [
    enlargedStart(left, width, longer, pictureWidth) - MARGIN * longer,
    enlargedStart(top, height, longer, pictureHeight) - MARGIN * longer,
    Math.max(longer * (1 + 2 * MARGIN), 1),
  ];
}

function enlargedStart(start, length, newLength, end) {
  const atStart = Math.abs(start) <= NEAR;
  const atEnd = Math.abs(start + length - end) <= NEAR;
  if (atStart && !atEnd) return start + length - newLength;
  return atEnd && !atStart ? start : start + (length - newLength) / 2;
}

/** Pixels [low, high) to read along one axis, and how often the first and the last one are repeated. */
function span(start, length, radius, end) {
  const first = Math.floor(start - radius);
  const last = Math.ceil(start + length + radius);
  const low = Math.min(Math.max(first, 0), end - 1);
  const high = Math.max(Math.min(last, end), low + 1);
  const before = start < -NEAR ? low - first : 0;
  const after = start + length > end + NEAR ? last - high : 0;
  return { low, high, before, after };
}

/** Repeats the pixels at the edges: a black bar would show the network a border that no face of FER2013 has. */
function padded(region, columns, rows) {
  if (!(columns.before || columns.after || rows.before || rows.after)) return region;
  const width = region.width + columns.before + columns.after;
  const height = region.height + rows.before + rows.after;
  const { channels } = region;
  const data = new Uint8Array(width * height * channels);
  for (let y = 0; y < height; y++) {
    const row = Math.min(Math.max(y - rows.before, 0), region.height - 1);
    for (let x = 0; x < width; x++) {
      const column = Math.min(Math.max(x - columns.before, 0), region.width - 1);
      const from = (row * region.width + column) * channels;
      for (let channel = 0; channel < channels; channel++) {
        data[(y * width + x) * channels + channel] = region.data[from + channel];
      }
    }
  }
  return { data, width, height, channels };
}

function toRgb(picture) {
  if (picture.channels === 3) return picture;
  const data = new Uint8Array(3 * picture.data.length);
  picture.data.forEach((value, index) => data.fill(value, 3 * index, 3 * index + 3));
  return { ...picture, data, channels: 3 };
}
