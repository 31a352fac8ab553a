// Width and height of a picture by the first bytes of its file, so that a huge one is refused before it is decoded.

/** Pixels of the largest picture that this tab reads: its copies in memory take 11 bytes for each of them. */
export const MOST_PIXELS = 40_000_000;

const MOST_SEGMENTS = 1000; // of a JPEG file before its size; the metadata of a photo take a few

/** [width, height] of a PNG, JPEG, WebP, GIF or BMP file; null for another kind, or one that is cut off. */
export async function sizeOf(file) {
  try {
    const view = await bytes(file, 0, 32);
    const start = text(view, 0);
    if (start === "\x89PNG") return [view.getUint32(16), view.getUint32(20)];
    if (start === "GIF8") return [view.getUint16(6, true), view.getUint16(8, true)];
    if (start === "RIFF") return ofWebp(view);
    if (start.startsWith("\xff\xd8")) return await ofJpeg(file);
    if (start.startsWith("BM")) return ofBmp(view);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // else it is cut off: what decodes it gives the reason
  }
  return null;
}

/** Why a picture of this size is not read; null if it is. */
export function reasonAgainstSize([width, height], most, where) {
  if (width * height <= most) return null;
  return `it has ${width} x ${height} pixels, and ${where} at most ${most / 1e6} million; make it smaller`;
}

const bytes = async (file, start, count) => new DataView(await file.slice(start, start + count).arrayBuffer());

const text = (view, start) => String.fromCharCode(...[0, 1, 2, 3].map((place) => view.getUint8(start + place)));

function ofBmp(view) {
  if (view.getUint32(14, true) === 12) return [view.getUint16(18, true), view.getUint16(20, true)]; // of OS/2
  return [view.getInt32(18, true), Math.abs(view.getInt32(22, true))]; // a negative height: its first row is on top
}

/** The container of WebP (RFC 9649): extended, lossless or lossy. */
function ofWebp(view) {
  const kind = text(view, 12);
  if (kind === "VP8X") return [24, 27].map((place) => 1 + (view.getUint32(place, true) & 0xffffff));
  if (kind === "VP8L") return [0, 14].map((shift) => 1 + ((view.getUint32(21, true) >>> shift) & 0x3fff));
  if (kind === "VP8 ") return [26, 28].map((place) => view.getUint16(place, true) & 0x3fff);
  return null;
}

/** Goes from segment to segment to the frame header, which comes after the metadata (ITU-T T.81, annex B). */
async function ofJpeg(file) {
  for (let place = 2, count = 0; count < MOST_SEGMENTS; count++) {
    const view = await bytes(file, place, 9);
    const marker = view.getUint8(1);
    if (view.getUint8(0) !== 0xff) return null;
    const isFrame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (isFrame) return [view.getUint16(7), view.getUint16(5)];
    place += marker === 0xff ? 1 : 2 + view.getUint16(2); // FF: a byte that fills
  }
  return null;
}
