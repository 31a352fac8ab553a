// The worker that reads pictures in this tab. It fetches the networks once; no picture leaves it for anywhere but the
// page. Messages are {id, task, ...}; answers {id, ...} or {id, error}.

import { Engine } from "./engine.js";
import { fromRgba } from "./pixels.js";

const BUILT = new URL("../built/", import.meta.url);

/** Pixels of the largest picture: its copies in memory take 11 bytes for each of them. */
const MOST_PIXELS = 40_000_000;

let engine = null;
let ready = null;
const bytesOf = new Map();

const tasks = {
  /** Loads both networks, or another model: {root, detector, model, threads} -> what the model is. */
  async load({ root, detector, model, threads }) {
    ready = load(new URL(root), detector, model, threads);
    return { model: await ready };
  },

  /** Reads a picture: {file} (a Blob) or {bitmap}, {live} -> {width, height, faces, milliseconds}. */
  async read({ file, bitmap, live }) {
    await ready;
    const started = performance.now();
    const picture = pixelsOf(bitmap ?? (await decoded(file)));
    const decodedAt = performance.now();
    const faces = await engine.read(picture, live);
    const now = performance.now();
    const { width, height } = picture;
    return { width, height, faces, milliseconds: { decode: decodedAt - started, read: now - decodedAt } };
  },

  /** The heat map of a crop: {crop, label} -> {relevance, size}. */
  async explain({ crop, label }) {
    await ready;
    return { relevance: await engine.explain(crop, label), size: crop.width };
  },
};

async function load(root, detector, model, threads) {
  if (!engine) {
    const ort = await import(new URL("ort.wasm.min.mjs", BUILT).href);
    ort.env.wasm.wasmPaths = BUILT.href;
    ort.env.wasm.numThreads = threads;
    engine = new Engine(ort);
    const [network] = await Promise.all([fetched(root, detector), fetched(root, model)]);
    await engine.loadDetector(network);
  }
  const loaded = await engine.loadModel(await fetched(root, model));
  await engine.warmUp();
  return loaded;
}

/** Bytes of a file of the page, checked against the hash that was written when the page was built. */
function fetched(root, { url, sha256 }) {
  if (!bytesOf.has(url)) bytesOf.set(url, fetchBytes(new URL(url, root), sha256));
  const bytes = bytesOf.get(url);
  bytes.catch(() => bytesOf.delete(url));
  return bytes;
}

async function fetchBytes(url, sha256) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url.pathname} is missing (${answer.status}); build the page again with make page`);
  const bytes = new Uint8Array(await answer.arrayBuffer());
  if (crypto.subtle && (await hash(bytes)) !== sha256) {
    throw new Error(`${url.pathname} is another file than the page was built with; build it again with make page`);
  }
  return bytes;
}

async function hash(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (value) => value.toString(16).padStart(2, "0")).join("");
}

/** Upright, without a change of colours, as Pillow decodes. */
async function decoded(file) {
  try {
    return await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new Error("this browser cannot decode it: it is damaged, or of a kind that browsers do not know");
  }
}

function pixelsOf(bitmap) {
  const { width, height } = bitmap;
  if (width * height > MOST_PIXELS) {
    bitmap.close();
    throw new Error(`it has ${width} x ${height} pixels, and this tab reads at most ${MOST_PIXELS / 1e6} million; make it smaller, or read it on a server`);
  }
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white"; // what shows through transparent parts
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return fromRgba(context.getImageData(0, 0, width, height).data, width, height);
}

self.onmessage = async ({ data: { id, task, ...input } }) => {
  try {
    self.postMessage({ id, ...(await tasks[task](input)) });
  } catch (error) {
    self.postMessage({ id, error: error?.message ?? String(error) });
  }
};
