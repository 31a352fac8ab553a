// What kind of file something is, by its first bytes; its name does not matter (mien.recognition.pictures).

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
