// The crop of a face: the pixels that the network reads, {data, width, height, channels}.

/** Draws a crop over a square of a canvas, from its corner on. */
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

/** A crop from the rows of its pixels, numbers or three numbers each, as the service sends it. */
export function cropOf(rows) {
  const isGrey = typeof rows[0][0] === "number";
  return { data: Uint8Array.from(rows.flat(2)), width: rows[0].length, height: rows.length, channels: isGrey ? 1 : 3 };
}
