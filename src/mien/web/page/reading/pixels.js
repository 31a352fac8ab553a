// Pictures as arrays of pixels, resized and turned grey exactly as Pillow does it (src/libImaging/Resample.c and
// Reduce.c), so that the page and `mien predict` read the same numbers. A canvas would scale in its own way.
//
// A picture is {data, width, height, channels}: a Uint8Array of rows from the top, with 1 (grey) or 3 (RGB) channels.

const PRECISION_BITS = 32 - 8 - 2; // fixed point of Pillow's weights for 8-bit pixels

const FILTERS = {
  box: { support: 0.5, weight: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
};

/** Rounds half to even, as Python's round() does. */
export function round(value) {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return rest < 0.5 ? floor : floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

const NOISE = 16;

/** Whether a canvas here gives the pixels that were drawn; noise in their lowest bits changes no answer. */
export function hasTruePixels() {
  if (!self.OffscreenCanvas) return false;
  const side = 16;
  const context = new OffscreenCanvas(side, side).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "rgb(128 128 128)";
  context.fillRect(0, 0, side, side);
  const { data } = context.getImageData(0, 0, side, side);
  return data.every((value, index) => Math.abs(value - (index % 4 === 3 ? 255 : 128)) < NOISE);
}

/** Refuses a browser that gives noise in place of pixels, against fingerprints: an answer to noise means nothing. */
export function refuseNoise() {
  if (hasTruePixels()) return;
  throw new Error("this browser gives pages noise in place of the pixels of a picture (privacy.resistFingerprinting, as in "
    + "Tor Browser), or is too old; switch that off for this page, or use another browser or mien predict");
}

/** Turns RGBA pixels of a canvas, opaque, into a picture; it is grey if all its pixels are. */
export function fromRgba(rgba, width, height) {
  const count = width * height;
  const isGrey = hasEqualChannels(rgba, count);
  const channels = isGrey ? 1 : 3;
  const data = new Uint8Array(count * channels);
  if (isGrey) {
    for (let i = 0; i < count; i++) data[i] = rgba[4 * i];
  } else {
    for (let i = 0, from = 0, to = 0; i < count; i++, from += 4, to += 3) {
      data[to] = rgba[from];
      data[to + 1] = rgba[from + 1];
      data[to + 2] = rgba[from + 2];
    }
  }
  return { data, width, height, channels };
}

function hasEqualChannels(rgba, count) {
  for (let i = 0; i < 4 * count; i += 4) {
    if (rgba[i] !== rgba[i + 1] || rgba[i] !== rgba[i + 2]) return false;
  }
  return true;
}

/** Copies the part [left, right) x [top, bottom) of a picture, every rowStep-th row of it. */
export function part(picture, left, top, right, bottom, rowStep = 1) {
  const { data, width, channels } = picture;
  const columns = right - left;
  const rows = Math.ceil((bottom - top) / rowStep);
  if (left === 0 && right === width && rowStep === 1) {
    const region = data.subarray(top * width * channels, bottom * width * channels);
    return { data: region, width, height: rows, channels };
  }
  const region = new Uint8Array(columns * rows * channels);
  for (let row = 0; row < rows; row++) {
    const start = ((top + row * rowStep) * width + left) * channels;
    region.set(data.subarray(start, start + columns * channels), row * columns * channels);
  }
  return { data: region, width: columns, height: rows, channels };
}

/** Luma (ITU-R BT.601) as Pillow's mode L rounds it. */
export function toGrey(picture) {
  if (picture.channels === 1) return picture;
  const { data, width, height } = picture;
  const grey = new Uint8Array(width * height);
  for (let i = 0, from = 0; i < grey.length; i++, from += 3) {
    grey[i] = (data[from] * 19595 + data[from + 1] * 38470 + data[from + 2] * 7471 + 0x8000) >> 16;
  }
  return { data: grey, width, height, channels: 1 };
}

/** The picture in the mirror. */
export function mirrored(picture) {
  const { data, width, height, channels } = picture;
  const turned = new Uint8Array(data.length);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      for (let channel = 0; channel < channels; channel++) {
        turned[(row * width + column) * channels + channel] =
          data[(row * width + (width - 1 - column)) * channels + channel];
      }
    }
  }
  return { ...picture, data: turned };
}

/** The picture upside down: its last row first. */
export function flipped(picture) {
  const { data, width, height, channels } = picture;
  const turned = new Uint8Array(data.length);
  const line = width * channels;
  for (let row = 0; row < height; row++) {
    turned.set(data.subarray((height - 1 - row) * line, (height - row) * line), row * line);
  }
  return { ...picture, data: turned };
}

/**
 * Pillow's Image.resize(size, filter, box).
 * @param {number[]} box left, top, right, bottom in pixels of the picture; fractions count.
 */
export function resample(picture, width, height, filter, box = [0, 0, picture.width, picture.height]) {
  const [left, top, right, bottom] = box.map(Math.fround);
  const across = left !== 0 || right !== picture.width || width !== picture.width;
  const down = top !== 0 || bottom !== picture.height || height !== picture.height;
  const columns = across ? weights(picture.width, left, right, width, FILTERS[filter]) : null;
  const rows = down ? weights(picture.height, top, bottom, height, FILTERS[filter]) : null;
  const wide = columns ? horizontal(picture, columns, rows) : picture;
  return rows ? vertical(wide, rows) : wide;
}

/** Bounds and integer weights of each output pixel along one axis (precompute_coeffs, normalize_coeffs_8bpc). */
function weights(inSize, start, end, outSize, filter) {
  const scale = Math.fround(end - start) / outSize;
  const filterScale = Math.max(scale, 1);
  const support = filter.support * filterScale;
  const size = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(outSize);
  const count = new Int32Array(outSize);
  const values = new Int32Array(outSize * size);
  const row = new Float64Array(size);
  for (let out = 0; out < outSize; out++) {
    const centre = start + (out + 0.5) * scale;
    const low = Math.max(0, Math.trunc(centre - support + 0.5));
    const high = Math.min(inSize, Math.trunc(centre + support + 0.5));
    let sum = 0;
    for (let x = 0; x < high - low; x++) {
      row[x] = filter.weight((x + low - centre + 0.5) / filterScale);
      sum += row[x];
    }
    first[out] = low;
    count[out] = high - low;
    for (let x = 0; x < high - low; x++) {
      values[out * size + x] = Math.trunc(0.5 + (sum ? row[x] / sum : row[x]) * (1 << PRECISION_BITS));
    }
  }
  return { first, count, values, size, outSize };
}

/** Rows outside what the vertical pass reads stay black. */
function horizontal(picture, columns, rows) {
  const { data, width, height, channels } = picture;
  const { first, count, values, size, outSize } = columns;
  const result = new Uint8Array(outSize * height * channels);
  const top = rows ? rows.first[0] : 0;
  const bottom = rows ? rows.first[rows.outSize - 1] + rows.count[rows.outSize - 1] : height;
  for (let row = top; row < bottom; row++) {
    const line = row * width;
    let to = row * outSize * channels;
    for (let column = 0; column < outSize; column++) {
      const from = (line + first[column]) * channels;
      const weight = column * size;
      const length = count[column];
      if (channels === 1) {
        let sum = 1 << (PRECISION_BITS - 1);
        for (let x = 0; x < length; x++) sum += data[from + x] * values[weight + x];
        result[to++] = sum >> PRECISION_BITS;
      } else {
        let red = 1 << (PRECISION_BITS - 1);
        let green = red;
        let blue = red;
        for (let x = 0, at = from; x < length; x++, at += 3) {
          const value = values[weight + x];
          red += data[at] * value;
          green += data[at + 1] * value;
          blue += data[at + 2] * value;
        }
        result[to++] = red >> PRECISION_BITS;
        result[to++] = green >> PRECISION_BITS;
        result[to++] = blue >> PRECISION_BITS;
      }
    }
  }
  return { data: result, width: outSize, height, channels };
}

function vertical(picture, rows) {
  const { data, width, channels } = picture;
  const { first, count, values, size, outSize } = rows;
  const line = width * channels;
  const result = new Uint8Array(outSize * line);
  const sums = new Int32Array(line);
  for (let row = 0; row < outSize; row++) {
    sums.fill(1 << (PRECISION_BITS - 1));
    for (let y = 0; y < count[row]; y++) {
      const value = values[row * size + y];
      const from = (first[row] + y) * line;
      for (let x = 0; x < line; x++) sums[x] += data[from + x] * value;
    }
    const to = row * line;
    for (let x = 0; x < line; x++) result[to + x] = sums[x] >> PRECISION_BITS;
  }
  return { data: result, width, height: outSize, channels };
}

/** Pillow's Image.reduce: each pixel is the mean of a block, at the right and lower edge of what is left of one. */
function reduce(picture, across, down) {
  const { data, width, height, channels } = picture;
  const columns = Math.ceil(width / across);
  const rows = Math.ceil(height / down);
  const result = new Uint8Array(columns * rows * channels);
  const sums = new Uint32Array(columns * channels);
  for (let row = 0; row < rows; row++) {
    const high = Math.min(down, height - row * down);
    sums.fill(0);
    for (let y = row * down; y < row * down + high; y++) {
      let from = y * width * channels;
      for (let column = 0; column < columns; column++) {
        const wide = Math.min(across, width - column * across);
        const at = column * channels;
        if (channels === 1) {
          for (let x = 0; x < wide; x++) sums[at] += data[from++];
        } else {
          let [red, green, blue] = [0, 0, 0];
          for (let x = 0; x < wide; x++, from += 3) {
            red += data[from];
            green += data[from + 1];
            blue += data[from + 2];
          }
          sums[at] += red;
          sums[at + 1] += green;
          sums[at + 2] += blue;
        }
      }
    }
    for (let column = 0; column < columns; column++) {
      const block = high * Math.min(across, width - column * across);
      const multiplier = Math.floor(Math.fround(2 ** 32 / (256 * block)));
      for (let channel = 0; channel < channels; channel++) {
        const sum = sums[column * channels + channel] + (block >> 1);
        result[(row * columns + column) * channels + channel] = Math.imul(sum, multiplier) >>> 24;
      }
    }
  }
  return { data: result, width: columns, height: rows, channels };
}

/** Pillow's Image.resize(size, filter, reducing_gap=1.0) of a whole picture. */
export function resizeReduced(picture, width, height, filter) {
  if (picture.width === width && picture.height === height) return picture;
  const across = Math.floor(picture.width / width) || 1;
  const down = Math.floor(picture.height / height) || 1;
  if (across === 1 && down === 1) return resample(picture, width, height, filter);
  const box = [0, 0, picture.width / across, picture.height / down];
  return resample(reduce(picture, across, down), width, height, filter, box);
}
