// The crop of a face: the pixels that the network reads, {data, width, height, channels}.

/** Draws a crop over a square of a canvas, from its corner on. */
export function drawCrop(pen, { data, width, height, channels }, side) {
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let channel = 0; channel < 3; channel++) image.data[4 * i + channel] = data[channels * i + (channels === 3 ? channel : 0)];
    image.data[4 * i + 3] = 255;
  }
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  pen.drawImage(canvas, 0, 0, side, side);
}

/** A crop from the rows of its pixels, numbers or three numbers each, as the service sends it. */
export function cropOf(rows) {
  const isGrey = typeof rows[0][0] === "number";
  return { data: Uint8Array.from(rows.flat(2)), width: rows[0].length, height: rows.length, channels: isGrey ? 1 : 3 };
}
