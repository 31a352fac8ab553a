// Draws the crop of a face, and which parts of it an answer depends on, in the colours of mien.recognition.explain:
// mixed in OKLab (Ottosson 2020), where equal distances look equally large.

import { blurred } from "./reading/occlusion.js";
import { refuseNoise } from "./reading/pixels.js";

const FOR = [230, 97, 0];
const AGAINST = [38, 84, 190];
const STRONGEST = 0.85;
const SMOOTHING = 1 / 24;
const SIDE = 288;

const TO_CONE = [
  [0.4122214708, 0.5363325363, 0.0514459929],
  [0.2119034982, 0.6806995451, 0.1073969566],
  [0.0883024619, 0.2817188376, 0.6299787005],
];
const TO_LAB = [
  [0.2104542553, 0.793617785, -0.0040720468],
  [1.9779984951, -2.4285922050, 0.4505937099],
  [0.0259040371, 0.7827717662, -0.808675766],
];
const FROM_LAB = [
  [1, 0.3963377774, 0.2158037573],
  [1, -0.1055613458, -0.0638541728],
  [1, -0.0894841775, -1.291485548],
];
const FROM_CONE = [
  [4.0767416621, -3.3077115913, 0.2309699292],
  [-1.2684380046, 2.6097574011, -0.3413193965],
  [-0.0041960863, -0.7034186147, 1.707614701],
];

/** Draws a crop, the pixels that the network reads, over a square of a canvas, from its corner on. */
export function drawCrop(pen, { data, width, height, channels }, side) {
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    const first = channels * i;
    const colour = channels === 3 ? data.subarray(first, first + 3) : new Array(3).fill(data[first]);
    image.data.set([...colour, 255], 4 * i);
  }
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  pen.drawImage(canvas, 0, 0, side, side);
}

/**
 * Draws a heat map on a canvas: the face in grey, orange for the label, blue against it. The ground is the crop itself,
 * so that every colour lies over what was hidden there, also beyond the edges of the photo.
 * @param explanation {relevance, size, crop}: a number for each pixel of the crop, of size x size pixels.
 */
export function drawHeat(canvas, { relevance, size, crop }) {
  refuseNoise();
  canvas.width = canvas.height = SIDE;
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.imageSmoothingQuality = "high";
  drawCrop(pen, crop, SIDE);
  const image = pen.getImageData(0, 0, SIDE, SIDE);
  const values = scaled(relevance, size);
  const tints = [FOR, AGAINST].map(toLab);
  for (let row = 0; row < SIDE; row++) {
    for (let column = 0; column < SIDE; column++) {
      const at = 4 * (row * SIDE + column);
      const value = sampled(values, size, row, column);
      const luma = 0.299 * image.data[at] + 0.587 * image.data[at + 1] + 0.114 * image.data[at + 2];
      const part = STRONGEST * Math.min(1, Math.abs(value));
      const tint = tints[value >= 0 ? 0 : 1];
      const ground = [0.3 + (0.6 * luma) / 255, 0, 0];
      image.data.set(toRgb(ground.map((light, axis) => (1 - part) * light + part * tint[axis])), at);
    }
  }
  pen.putImageData(image, 0, 0);
}

function scaled(relevance, size) {
  const smooth = blurred(Float64Array.from(relevance), size, 1, SMOOTHING * size);
  const top = smooth.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return top > 0 ? smooth.map((value) => value / top) : smooth;
}

/** Bilinear between the values of the pixels. */
function sampled(values, size, row, column) {
  const [y, x] = [row, column].map((place) => Math.min(Math.max(((place + 0.5) * size) / SIDE - 0.5, 0), size - 1));
  const [top, left] = [Math.floor(y), Math.floor(x)];
  const [bottom, right] = [Math.min(top + 1, size - 1), Math.min(left + 1, size - 1)];
  const at = (line, place) => values[line * size + place];
  const above = at(top, left) + (x - left) * (at(top, right) - at(top, left));
  const below = at(bottom, left) + (x - left) * (at(bottom, right) - at(bottom, left));
  return above + (y - top) * (below - above);
}

const product = (matrix, vector) => matrix.map((row) => row.reduce((sum, value, axis) => sum + value * vector[axis], 0));

function toLab(rgb) {
  const linear = rgb.map((value) => value / 255).map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
  return product(TO_LAB, product(TO_CONE, linear).map(Math.cbrt));
}

function toRgb(lab) {
  const linear = product(FROM_CONE, product(FROM_LAB, lab).map((value) => value ** 3));
  return linear.map((value) => {
    const share = Math.min(Math.max(value, 0), 1);
    return Math.round(255 * (share <= 0.0031308 ? 12.92 * share : 1.055 * share ** (1 / 2.4) - 0.055));
  });
}
