// The worker that reads pictures in this tab. It fetches the networks once; no picture leaves it for anywhere but the
// page. Messages are {id, task, ...}; answers {id, ...} or {id, error,
// isOfPicture, isLost}. Every task names its model, and models
// that were loaded stay: an answer never comes from another model than the one that was asked.

import { Engine } from "./engine.js";
import { fromRgba, refuseNoise } from "./pixels.js";
import { MOST_PIXELS, reasonAgainstSize } from "../files.js";

const BUILT = new URL("../built/", import.meta.url);

let engine = null; // a promise of the engine with its detector; null before the first load and if that failed
const models = new Map(); // promises of the models, by name

const tasks = {
  /** Loads a model, once, and the detector before the first: {root, detector, model, threads}. */
  async load({ root, detector, model, threads }) {
    engine ??= forgotten(loadEngine(root, detector, threads), () => { engine = null; });
    if (!models.has(model.name)) {
      models.set(model.name, forgotten(loadModel(root, model), () => models.delete(model.name)));
    }
    await models.get(model.name);
  },

  /** Reads a picture: {file} (a Blob) or {bitmap}, {live, model} -> {width, height, faces, milliseconds}. */
  async read({ file, bitmap, live, model }) {
    const [reader, network] = await Promise.all([engine, models.get(model)]);
    const started = performance.now();
    const picture = pixelsOf(bitmap ?? (await decoded(file)));
    const decodedAt = performance.now();
    const faces = await reader.read(picture, network, live);
    const now = performance.now();
    const { width, height } = picture;
    return { width, height, faces, milliseconds: { decode: decodedAt - started, read: now - decodedAt } };
  },

  /** The heat map of a crop: {crop, label, model} -> {relevance, size}. */
  async explain({ crop, label, model }) {
    const [reader, network] = await Promise.all([engine, models.get(model)]);
    return { relevance: await reader.explain(crop, label, network), size: crop.width };
  },
};

/** A promise that calls `forget` before it rejects, so that the next task tries again. */
const forgotten = (promise, forget) => promise.catch((error) => { forget(); throw error; });

async function loadEngine(root, detector, threads) {
  refuseNoise();
  const [ort, network] = await Promise.all([import(new URL("ort.wasm.min.js", BUILT).href), fetched(root, detector)]);
  const runtime = new URL("ort-wasm-simd-threaded", BUILT).href;
  ort.env.wasm.wasmPaths = { mjs: `${runtime}.js`, wasm: `${runtime}.wasm` };
  ort.env.wasm.numThreads = threads;
  const made = new Engine(ort);
  await made.loadDetector(network).catch(({ message }) => {
    throw new Error(`the networks cannot start (${message}); switch WebAssembly on for this page, or use a newer browser`);
  });
  return made;
}

async function loadModel(root, model) {
  const [reader, bytes] = await Promise.all([engine, fetched(root, model)]);
  const network = await reader.loadModel(bytes);
  await reader.warmUp(network);
  return network;
}

/** Bytes of a file of the page, checked against the hash that was written when the page was built. */
async function fetched(root, { url: place, sha256 }) {
  const url = new URL(place, root);
  const answer = await fetch(url, { cache: "no-cache" }).catch(() => { // asks whether it has changed
    throw new Error(`${url.pathname} cannot be fetched; check the connection, and that the server of this page still runs`);
  });
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
    const reason = "this browser cannot decode it: it is damaged, or of a kind that browsers do not know";
    throw Object.assign(new Error(reason), { isOfPicture: true });
  }
}

function pixelsOf(bitmap) {
  const { width, height } = bitmap;
  const reason = reasonAgainstSize([width, height], MOST_PIXELS, "this tab reads"); // of kinds that sizeOf does not know
  if (reason) {
    bitmap.close();
    throw new Error(reason);
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
    // Without an engine this worker is lost: neither onnxruntime-web nor a module that failed once can be loaded again.
    const { message = String(error), isOfPicture } = error ?? {};
    self.postMessage({ id, error: message, isOfPicture, isLost: engine === null });
  }
};
