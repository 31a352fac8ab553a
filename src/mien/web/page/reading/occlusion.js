// Which parts of a face an answer depends on: occlusion as in mien.recognition.explain, with the same numbers.

import { round } from "./pixels.js";

const WINDOW = 1 / 4;
const LEAST = 1e-6;

/**
 * Mean fall of a label's log-odds, in nats, if a square around each pixel is hidden.
 * @param crop the picture that the network read.
 * @param read takes an array of crops and answers an array of probabilities for each.
 * @param {number} label position of the expression.
 * @returns Float32Array with a number for each pixel; above 0 speaks for the label.
 */
export async function occlusion(crop, read, label) {
  const size = crop.width;
  const hidden = blurred(crop.data, size, crop.channels, size / 8);
  const side = Math.max(2, round(WINDOW * size));
  const step = Math.floor(side / 2);
  const starts = [];
  for (let start = step - side; start < size; start += step) starts.push(start);
  const views = starts.flatMap((top) => starts.map((left) => covered(crop, hidden, left, top, side)));
  const answers = await read([crop, ...views]);
  const [whole, ...others] = answers.map((row) => logOdds(row[label]));
  const drops = others.map((value) => whole - value);
  return spread(drops, starts, side, size);
}

function covered(crop, hidden, left, top, side) {
  const { width, height, channels } = crop;
  const data = crop.data.slice();
  const first = Math.max(left, 0) * channels;
  const last = Math.min(left + side, width) * channels;
  for (let row = Math.max(top, 0); row < Math.min(top + side, height); row++) {
    const line = row * width * channels;
    data.set(hidden.subarray(line + first, line + last), line + first);
  }
  return { ...crop, data };
}

function logOdds(probability) {
  const clipped = Math.min(Math.max(probability, LEAST), 1 - LEAST);
  return Math.log(clipped) - Math.log1p(-clipped);
}

/** Averages for each pixel the drops of the squares that hide it. */
function spread(drops, starts, side, size) {
  const hiding = Array.from({ length: size }, (_, pixel) =>
    starts.flatMap((start, index) => (start <= pixel && pixel < start + side ? [index] : [])),
  );
  const relevance = new Float32Array(size * size);
  for (let row = 0; row < size; row++) {
    for (let column = 0; column < size; column++) {
      let sum = 0;
      for (const down of hiding[row]) for (const right of hiding[column]) sum += drops[down * starts.length + right];
      relevance[row * size + column] = sum / (hiding[row].length * hiding[column].length);
    }
  }
  return relevance;
}

/**
 * A Gaussian along the columns, then along the rows; the edges are mirrored, the edge pixel repeated.
 * @returns Uint8Array for a Uint8Array, rounded; else Float64Array.
 */
export function blurred(data, size, channels, deviation) {
  const radius = Math.ceil(3 * deviation);
  const weights = Array.from({ length: 2 * radius + 1 }, (_, i) => Math.exp(-0.5 * ((i - radius) / deviation) ** 2));
  const total = weights.reduce((sum, value) => sum + value, 0);
  const mirror = (place) => {
    const period = ((place % (2 * size)) + 2 * size) % (2 * size);
    return period < size ? period : 2 * size - 1 - period;
  };
  let values = Float64Array.from(data);
  for (const [along, across] of [[size * channels, channels], [channels, size * channels]]) {
    const sums = new Float64Array(values.length);
    for (let line = 0; line < size; line++) {
      for (let place = 0; place < size; place++) {
        for (let channel = 0; channel < channels; channel++) {
          const base = line * across + channel;
          let sum = 0;
          for (let offset = -radius; offset <= radius; offset++) {
            sum += (weights[offset + radius] / total) * values[base + mirror(place + offset) * along];
          }
          sums[base + place * along] = sum;
        }
      }
    }
    values = sums;
  }
  return data instanceof Uint8Array ? Uint8Array.from(values, round) : values;
}
