// Whether a file holds more pictures than the first one, which alone is read: frames of a GIF, PNG, WebP or AVIF file.

const SECOND = 2;

/** True if a file that the browser decodes holds more than one picture; false also for a damaged end. */
export async function holdsSeveral(file) {
  const view = new DataView(await file.arrayBuffer());
  try {
    const start = text(view, 0);
    if (start === "\x89PNG") return ofPng(view);
    if (start === "GIF8") return ofGif(view);
    if (start === "RIFF") return ofWebp(view);
    if (text(view, 4) === "ftyp") return text(view, 8) === "avis";
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // else it is cut off before its second picture
  }
  return false;
}

const text = (view, start) => String.fromCharCode(...[0, 1, 2, 3].map((place) => view.getUint8(start + place)));

/** The chunk acTL, before the pixels, has the number of frames (PNG, third edition, 11.3.6). */
function ofPng(view) {
  for (let place = 8; text(view, place + 4) !== "IDAT"; place += 12 + view.getUint32(place)) {
    if (text(view, place + 4) === "acTL") return view.getUint32(place + 8) >= SECOND;
  }
  return false;
}

/** Goes from block to block to the second image descriptor (GIF89a, section 20). */
function ofGif(view) {
  const table = (flags) => (flags & 0x80 ? 3 << ((flags & 7) + 1) : 0);
  let images = 0;
  let place = 13 + table(view.getUint8(10));
  while (images < SECOND && [0x21, 0x2c].includes(view.getUint8(place))) {
    const isImage = view.getUint8(place) === 0x2c;
    images += isImage;
    place += isImage ? 11 + table(view.getUint8(place + 9)) : 2;
    for (let length; (length = view.getUint8(place)); ) place += length + 1;
    place += 1;
  }
  return images >= SECOND;
}

/** Counts the chunks of frames; each fills an even number of bytes (RFC 9649). */
function ofWebp(view) {
  let images = 0;
  for (let place = 12; images < SECOND && place < view.byteLength; ) {
    images += text(view, place) === "ANMF";
    const length = view.getUint32(place + 4, true);
    place += 8 + length + (length % 2);
  }
  return images >= SECOND;
}
