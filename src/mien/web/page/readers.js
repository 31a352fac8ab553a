// The two places where pictures are read: in this tab, by a worker, and on the server that serves this page. Both
// answer {width, height, faces, first_of_several, milliseconds}; a face is {box, label, score, uncertain, probabilities,
// detector_score}.

import { MOST_PIXELS, holdsSeveral, isTurnedWebp, reasonAgainstSize, sizeOf } from "./files.js";
import { refuseNoise } from "./reading/pixels.js";

/** The worker of this tab, hired when it is needed. It keeps every model that it loaded: each can be asked again. */
export class Tab {
  /** @param built built/models.json. */
  constructor({ detector, models }, threads) {
    this.detector = detector;
    this.models = models;
    this.threads = threads;
    this.started = new Map(); // promises of the models that the present worker loads or has loaded, by name
    this.waiting = new Map();
    this.next = 0;
  }

  /** Loads a model, once; later calls wait for the same. What failed is tried again. */
  start(name) {
    if (!this.started.has(name)) {
      const started = this.load(name);
      this.started.set(name, started);
      started.catch(() => { if (this.started.get(name) === started) this.started.delete(name); });
    }
    return this.started.get(name);
  }

  load(name) {
    const model = this.models.find((one) => one.name === name);
    const root = new URL(".", document.baseURI).href;
    return this.ask({ task: "load", root, detector: this.detector, model, threads: this.threads });
  }

  ask(message, transfer = []) {
    this.worker ??= this.hire();
    const id = this.next++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, ...message }, transfer);
    });
  }

  hire() {
    const worker = new Worker(new URL("reading/worker.js", import.meta.url), { type: "module" });
    worker.onmessage = ({ data: { id, error, isOfPicture, isLost, ...answer } }) => {
      if (isLost) return this.dismiss(error);
      const { resolve, reject } = this.waiting.get(id);
      this.waiting.delete(id);
      if (error === undefined) resolve(answer);
      else reject(Object.assign(new Error(error), { isOfPicture }));
    };
    worker.onerror = (event) => {
      event.preventDefault();
      this.dismiss(event.message || "the reader could not start; load this page again, or build it again with make page");
    };
    return worker;
  }

  /** Gives up a worker that cannot go on. The next one has to load everything anew. */
  dismiss(reason) {
    this.worker.terminate();
    this.worker.onmessage = this.worker.onerror = null; // what it has sent already is answered below
    this.worker = null;
    this.started.clear();
    for (const { reject } of this.waiting.values()) reject(Object.assign(new Error(reason), { isOfTab: true }));
    this.waiting.clear();
  }
}

/** Reads in this tab with one of its models. Nothing is sent: the worker only fetches the networks. */
export class TabReader {
  place = "tab";

  /** @param name of one of the models of the tab; a reader keeps its model. */
  constructor(tab, name) {
    this.tab = tab;
    this.name = name;
  }

  start() {
    return this.tab.start(this.name);
  }

  /** Refuses a picture that is too large, before anything decodes it, and one that browsers do not turn upright. */
  async check(file) {
    await refuseHuge(file, MOST_PIXELS, "this tab reads");
    if (!(await isTurnedWebp(file))) return;
    throw Object.assign(new Error("its EXIF data turn it, and browsers do not turn WebP files"), { isOfPicture: true });
  }

  async read(file, { live = false } = {}) {
    await this.start();
    const message = { task: "read", model: this.name, live };
    if (file instanceof ImageBitmap) return this.tab.ask({ ...message, bitmap: file }, [file]);
    return { ...(await this.tab.ask({ ...message, file })), first_of_several: await holdsSeveral(file) };
  }

  async explain({ face: { crop, label } }) {
    await this.start();
    const { relevance, size } = await this.tab.ask({ task: "explain", model: this.name, crop, label });
    return { relevance, size, crop };
  }
}

const WITH_KEY = "choose the file again, and type the key that the operator of the server gave you";

/** Reads on the server. Pictures are sent there. */
export class ServerReader {
  place = "server";

  /**
   * @param about the answer of GET v1/model.
   * @param {() => Promise<string>} askForKey called before a picture is sent, as long as no key is known to be right.
   */
  constructor(about, askForKey) {
    this.about = about;
    this.name = about.name;
    this.askForKey = askForKey;
    this.key = "";
  }

  async start() {}

  /** Refuses a picture that is too large, before anything decodes or sends it. */
  async check(file) {
    await refuseHuge(file, this.about.limits?.max_pixels ?? MOST_PIXELS, "the server takes");
  }

  async read(file) {
    const picture = file instanceof ImageBitmap ? await encoded(file) : file;
    const limit = this.about.limits?.max_bytes;
    if (limit && picture.size > limit) {
      throw new Error(`it has ${megabytes(picture.size)}, and the server takes at most ${megabytes(limit)}; make it smaller`);
    }
    const { records, milliseconds } = await this.post("v1/recognize", picture);
    const [{ status, error, width, height, faces, first_of_several }] = records;
    if (status === "error") throw Object.assign(new Error(error), { isOfPicture: true });
    return { width, height, faces, first_of_several, milliseconds: { decode: 0, read: milliseconds } };
  }

  /** @param item holds the picture as it was sent. */
  async explain({ item, index, face }) {
    const address = `v1/explain?face=${index}&label=${encodeURIComponent(face.label)}&format=json`;
    const { explanations } = await this.post(address, item.file);
    const [{ relevance: rows, crop }] = explanations;
    return { relevance: Float32Array.from(rows.flat()), size: rows.length, crop: cropOf(crop) };
  }

  /** Sends a picture; gives the values of the answer, and the milliseconds that it took. */
  async post(address, picture) {
    if (this.about.api_key_needed && !this.key) this.key = await this.askForKey();
    if (this.about.api_key_needed && !this.key) throw new Error(`nothing was sent: the server asks for a key; ${WITH_KEY}`);
    if (!/^[\x21-\x7e]*$/.test(this.key)) throw this.wrongKey(); // no key and no header has other characters
    const form = new FormData();
    form.append("pictures", picture, picture.name ?? "picture.png");
    const headers = this.key ? { "X-API-Key": this.key } : {};
    const { answer, started } = await answerTo(address, { method: "POST", body: form, headers }, patienceWith(this.about));
    if (answer.status === 401) throw this.wrongKey();
    const values = await answer.json().catch(() => null);
    if (answer.ok && values) return { ...values, milliseconds: performance.now() - started };
    const reason = values?.detail ?? values?.title ?? `the answer of the server (${answer.status}) is cut off or not JSON; try again`;
    throw Object.assign(new Error(reason), { isOfPicture: values?.type === "/docs#picture" });
  }

  /** Forgets the key, so that the next picture asks for another one. */
  wrongKey() {
    this.key = "";
    return new Error(`the server does not accept this key; ${WITH_KEY}`);
  }
}

const TRIES = 4; // while the server is busy and says when to come again
const LONGEST_WAIT_S = 5;
const TIMEOUT_S = 30; // of a server that does not say its own
const TRANSFER_S = 10; // for what comes before and after the times that the server measures

/** Seconds after which a server is given up: it has one time limit for the picture to arrive, and one for its answer. */
const patienceWith = ({ limits }) => 2 * (limits?.timeout_s ?? TIMEOUT_S) + TRANSFER_S;

/** The answer to a request within some seconds, and when it was sent; a busy server is asked again when it says so. */
async function answerTo(address, request, limit) {
  for (let tries = 1; ; tries += 1) {
    const started = performance.now();
    let answer;
    try {
      answer = await fetch(address, { ...request, signal: AbortSignal.timeout(1000 * limit) });
    } catch (error) {
      const reason = error.name === "TimeoutError"
        ? `the server has not answered for ${limit} s; try again`
        : "the server does not answer; check that mien serve still runs";
      throw Object.assign(new Error(reason), { isOfServer: true });
    }
    const wait = Number(answer.headers.get("Retry-After"));
    if (answer.status !== 503 || !(wait > 0) || tries === TRIES) return { answer, started };
    await new Promise((resolve) => { setTimeout(resolve, 1000 * Math.min(wait, LONGEST_WAIT_S)); });
  }
}

async function refuseHuge(file, most, where) {
  const size = await sizeOf(file);
  const reason = size && reasonAgainstSize(size, most, where);
  if (reason) throw new Error(reason);
}

/** A frame as a PNG, which loses nothing. */
async function encoded(bitmap) {
  refuseNoise();
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
  return canvas.convertToBlob({ type: "image/png" });
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

/** A crop from the rows of its pixels, numbers or three numbers each, as the service sends it. */
function cropOf(rows) {
  const isGrey = typeof rows[0][0] === "number";
  return { data: Uint8Array.from(rows.flat(2)), width: rows[0].length, height: rows.length, channels: isGrey ? 1 : 3 };
}
