// The two places where pictures are read: in this tab, by a worker, and on the server that serves this page. Both
// answer {width, height, faces, milliseconds}; a face is {box, label, score, uncertain, probabilities, detector_score}.

/** Reads in this tab. Nothing is sent: the worker only fetches the networks. */
export class TabReader {
  place = "tab";

  /** @param models built/models.json; `name` is one of its models. */
  constructor(models, name, threads) {
    this.models = models;
    this.name = name;
    this.threads = threads;
    this.waiting = new Map();
    this.next = 0;
  }

  /** Loads the networks, once; later calls wait for the same. */
  start() {
    this.started ??= this.load().catch((error) => {
      this.started = null;
      throw error;
    });
    return this.started;
  }

  load() {
    const { detector, models } = this.models;
    const model = models.find(({ name }) => name === this.name);
    const root = new URL(".", document.baseURI).href;
    return this.ask({ task: "load", root, detector, model, threads: this.threads });
  }

  /** Changes the model; the detector stays. */
  async change(name) {
    this.name = name;
    this.started = null;
    await this.start();
  }

  async read(file, { live = false } = {}) {
    await this.start();
    if (file instanceof ImageBitmap) return this.ask({ task: "read", bitmap: file, live }, [file]);
    return this.ask({ task: "read", file, live });
  }

  async explain({ face }) {
    const { relevance, size } = await this.ask({ task: "explain", crop: face.crop, label: face.label });
    return { relevance, size };
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
    worker.onmessage = ({ data: { id, error, ...answer } }) => {
      const { resolve, reject } = this.waiting.get(id);
      this.waiting.delete(id);
      if (error === undefined) resolve(answer);
      else reject(new Error(error));
    };
    worker.onerror = (event) => {
      event.preventDefault();
      for (const { reject } of this.waiting.values()) reject(new Error(event.message || "the reader could not start"));
      this.waiting.clear();
      this.worker = null;
    };
    return worker;
  }
}

/** Reads on the server. Pictures are sent there. */
export class ServerReader {
  place = "server";

  /** @param about the answer of GET v1/model. */
  constructor(about) {
    this.about = about;
    this.name = about.name;
    this.key = "";
  }

  async start() {}

  async read(file) {
    const started = performance.now();
    const picture = file instanceof ImageBitmap ? await encoded(file) : file;
    const limit = this.about.limits?.max_bytes;
    if (limit && picture.size > limit) {
      throw new Error(`it has ${megabytes(picture.size)}, and the server takes at most ${megabytes(limit)}; make it smaller`);
    }
    const { records } = await this.post("v1/recognize", picture);
    const [{ status, error, width, height, faces }] = records;
    if (status === "error") throw new Error(error);
    return { width, height, faces, milliseconds: { decode: 0, read: performance.now() - started } };
  }

  /** @param item holds the picture as it was sent. */
  async explain({ item, index, face }) {
    const address = `v1/explain?face=${index}&label=${encodeURIComponent(face.label)}&format=json`;
    const { explanations } = await this.post(address, item.file);
    const rows = explanations[0].relevance;
    return { relevance: Float32Array.from(rows.flat()), size: rows.length };
  }

  async post(address, picture) {
    const form = new FormData();
    form.append("pictures", picture, picture.name ?? "picture.png");
    const headers = this.key ? { "X-API-Key": this.key } : {};
    let answer;
    try {
      answer = await fetch(address, { method: "POST", body: form, headers });
    } catch {
      throw new Error("the server does not answer; check that mien serve still runs");
    }
    const values = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(values.detail ?? values.title ?? `the server answered with ${answer.status}`);
    return values;
  }
}

/** A frame as a PNG, which loses nothing. */
async function encoded(bitmap) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
  return canvas.convertToBlob({ type: "image/png" });
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
