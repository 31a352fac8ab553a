// What a file is, by its bytes; its name does not matter: its kind (mien.recognition.pictures), its size, by which a huge
// picture is refused before it is decoded, whether it holds several pictures, of which the first alone is read, and
// whether browsers show it lying on its side.

const HEAD = 4096;

const STARTS = [
  ["picture", ["\xff\xd8\xff", "\x89PNG\r\n\x1a\n", "GIF87a", "GIF89a", "II*\0", "MM\0*", "BM"]],
  ["film", ["\x1a\x45\xdf\xa3", "FLV\x01", "\x30\x26\xb2\x75\x8e\x66\xcf\x11", "DKIF", "\0\0\x01\xba", "\0\0\x01\xb3"]],
  ["sound", ["ID3", "\xff\xfb", "\xff\xf3", "\xff\xf2", "\xff\xf1", "fLaC", "MThd"]],
  ["archive", ["PK\x03\x04", "\x1f\x8b", "BZh", "\xfd7zXZ\0", "7z\xbc\xaf\x27\x1c", "Rar!"]],
  ["document", ["%PDF", "\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "{\\rtf"]],
];
const PICTURE_BRANDS = ["avif", "avis", "heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1", "crx "];
const SOUND_BRANDS = ["M4A ", "M4B ", "M4P ", "F4A ", "F4B ", "aax ", "aaxc"];
/** Boxes with which films begin that lack the box "ftyp". */
const BOXES = ["moov", "moof", "mdat", "wide", "free", "skip", "pnot", "styp", "sidx"];
/** Transport streams, as of camcorders: a byte G every 188, 192 or 204 bytes; the first may be anywhere in a packet. */
const TRANSPORTS = [188, 192, 204].map((length) => new RegExp(`^[^]{0,${length - 1}}?(?:G[^]{${length - 1}}){4}G`));
const RIFFS = { "AVI ": "film", WEBP: "picture", WAVE: "sound" };

const EXPECTED = "a picture or a film is expected";
const REASONS = {
  sound: `it is a sound file; ${EXPECTED}`,
  archive: `it is an archive; unpack it first, ${EXPECTED}`,
  document: `it is a document; ${EXPECTED}`,
  text: `it is a text; ${EXPECTED}`,
  empty: `it is empty; ${EXPECTED}`,
  unreadable: "the browser cannot open it; check that it is still there, and its rights",
};

/** picture, film, sound, archive, document, text, empty, unreadable or unknown. */
export async function kindOf(file) {
  if (file.isUnreadable) return "unreadable";
  const bytes = new Uint8Array(await file.slice(0, HEAD).arrayBuffer());
  if (!bytes.length) return "empty";
  const head = String.fromCharCode(...bytes);
  if (head.slice(4, 8) === "ftyp") {
    const brand = head.slice(8, 12);
    return PICTURE_BRANDS.includes(brand) ? "picture" : SOUND_BRANDS.includes(brand) ? "sound" : "film";
  }
  if (head.startsWith("RIFF")) return RIFFS[head.slice(8, 12)] ?? "unknown";
  if (head.startsWith("OggS")) return /theora|OVP80|video\//.test(head) ? "film" : "sound";
  if (BOXES.includes(head.slice(4, 8)) || TRANSPORTS.some((pattern) => pattern.test(head))) return "film";
  const entry = STARTS.find(([, starts]) => starts.some((start) => head.startsWith(start)));
  if (entry) return entry[0];
  return isText(bytes) ? "text" : "unknown";
}

/** Why a file of this kind cannot be read; null if it can be. */
export const reasonAgainst = (kind) => REASONS[kind] ?? null;

function isText(bytes) {
  if (bytes.some((byte) => byte < 9 || (byte > 13 && byte < 32 && byte !== 27))) return false;
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(bytes, { stream: true });
    return true;
  } catch {
    return false;
  }
}

// ---- size ----

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
    if (start === "RIFF") return sizeOfWebp(view);
    if (start.startsWith("\xff\xd8")) return await sizeOfJpeg(file);
    if (start.startsWith("BM")) return sizeOfBmp(view);
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

function sizeOfBmp(view) {
  if (view.getUint32(14, true) === 12) return [view.getUint16(18, true), view.getUint16(20, true)]; // of OS/2
  return [view.getInt32(18, true), Math.abs(view.getInt32(22, true))]; // a negative height: its first row is on top
}

/** The container of WebP (RFC 9649): extended, lossless or lossy. */
function sizeOfWebp(view) {
  const kind = text(view, 12);
  if (kind === "VP8X") return [24, 27].map((place) => 1 + (view.getUint32(place, true) & 0xffffff));
  if (kind === "VP8L") return [0, 14].map((shift) => 1 + ((view.getUint32(21, true) >>> shift) & 0x3fff));
  if (kind === "VP8 ") return [26, 28].map((place) => view.getUint16(place, true) & 0x3fff);
  return null;
}

/** Goes from segment to segment to the frame header, which comes after the metadata (ITU-T T.81, annex B). */
async function sizeOfJpeg(file) {
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

// ---- several pictures: the frames of a GIF, PNG, WebP or AVIF file ----

const SECOND = 2;

/** True if a file that the browser decodes holds more than one picture; false also for a damaged end. */
export async function holdsSeveral(file) {
  const view = new DataView(await file.arrayBuffer());
  try {
    const start = text(view, 0);
    if (start === "\x89PNG") return pngHoldsSeveral(view);
    if (start === "GIF8") return gifHoldsSeveral(view);
    if (start === "RIFF") return webpHoldsSeveral(view);
    if (text(view, 4) === "ftyp") return text(view, 8) === "avis";
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // else it is cut off before its second picture
  }
  return false;
}

/** The chunk acTL, before the pixels, has the number of frames (PNG, third edition, 11.3.6). */
function pngHoldsSeveral(view) {
  for (let place = 8; text(view, place + 4) !== "IDAT"; place += 12 + view.getUint32(place)) {
    if (text(view, place + 4) === "acTL") return view.getUint32(place + 8) >= SECOND;
  }
  return false;
}

/** Goes from block to block to the second image descriptor (GIF89a, section 20). */
function gifHoldsSeveral(view) {
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

/** Counts the chunks of frames. */
function webpHoldsSeveral(view) {
  let images = 0;
  for (const [kind] of webpChunks(view)) {
    images += kind === "ANMF";
    if (images >= SECOND) return true;
  }
  return false;
}

/** Kind and place of the content of each chunk; a chunk fills an even number of bytes (RFC 9649). */
function* webpChunks(view) {
  for (let place = 12; place < view.byteLength; ) {
    yield [text(view, place), place + 8];
    const length = view.getUint32(place + 4, true);
    place += 8 + length + (length % 2);
  }
}

// ---- orientation ----

const ORIENTATION = 0x112;

/** True for a WebP file that is upright only when turned or mirrored as its EXIF data say, which browsers do not do. */
export async function isTurnedWebp(file) {
  try {
    if (text(await bytes(file, 8, 4), 0) !== "WEBP") return false;
    const view = new DataView(await file.arrayBuffer());
    for (const [kind, place] of webpChunks(view)) if (kind === "EXIF") return orientationOf(view, place) > 1;
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // else it is cut off before
  }
  return false;
}

/** The orientation in EXIF data, from 1 (upright) to 8; 1 if there is none. */
function orientationOf(view, start) {
  const tiff = text(view, start) === "Exif" ? start + 6 : start;
  const isLittle = text(view, tiff).startsWith("II");
  const directory = tiff + view.getUint32(tiff + 4, isLittle);
  for (let entry = 0; entry < view.getUint16(directory, isLittle); entry++) {
    const place = directory + 2 + 12 * entry;
    if (view.getUint16(place, isLittle) !== ORIENTATION) continue;
    const value = view.getUint16(place + 8, isLittle);
    return value <= 8 ? value : 1;
  }
  return 1;
}

const text = (view, start) => String.fromCharCode(...[0, 1, 2, 3].map((place) => view.getUint8(start + place)));
