// The networks in onnxruntime-web: loads them, checks them, and reads pictures from pixels to answers.

import { faceCrop } from "./crop.js";
import { occlusion } from "./occlusion.js";
import { anySize, metadata } from "./onnx.js";
import { YuNet } from "./yunet.js";

const BATCH = 64;
const ROUNDING = 1e-3;
const WARM_UPS = 3;
const OPTIONS = { executionProviders: ["wasm"], logSeverityLevel: 4 };

/**
 * Reads pictures; the same answers as mien.Recognizer gives for the same pixels.
 * @param ort the module onnxruntime-web.
 */
export class Engine {
  constructor(ort) {
    this.ort = ort;
  }

  async loadDetector(bytes) {
    // Tiles have many sizes; a memory plan for each of them would be kept for good.
    const options = { ...OPTIONS, enableMemPattern: false };
    const session = await this.ort.InferenceSession.create(anySize(bytes), options);
    this.detector = new YuNet(async ({ data, shape }) => {
      const outputs = await session.run({ input: new this.ort.Tensor("float32", data, shape) });
      return Object.fromEntries(Object.entries(outputs).map(([name, tensor]) => [name, tensor.data]));
    });
  }

  /** Gives what `read` and `explain` take as their model; several may be loaded. */
  async loadModel(bytes) {
    const values = metadata(bytes);
    if (!Array.isArray(values.names) || !values.image_size) {
      throw new Error("the model is an ONNX file of another kind, expected one that `mien export` wrote");
    }
    const session = await this.ort.InferenceSession.create(bytes, OPTIONS);
    return {
      session,
      names: values.names,
      imageSize: values.image_size,
      faceSize: values.face_size ?? values.image_size,
      grey: values.grey,
      statedAccuracy: values.stated_accuracy,
      // A calibrated model without a threshold is never sure (mien.recognition.engine.sure_from).
      threshold: values.threshold ?? (values.stated_accuracy === null ? null : Infinity),
    };
  }

  /** Runs both networks a few times, so that the browser has compiled them well before the first picture. */
  async warmUp(model) {
    const picture = { data: new Uint8Array(3 * 320 ** 2), width: 320, height: 320, channels: 3 };
    for (let turn = 0; turn < WARM_UPS; turn++) {
      await this.detector.detect(picture, true);
      await this.probabilities([faceCrop(picture, { box: [0, 0, 320, 320] }, model)], model);
    }
  }

  /**
   * The faces of a picture, from left to right.
   * @returns [{box, label, score, uncertain, probabilities, detector_score, crop}]
   */
  async read(picture, model, live = false) {
    const detections = await this.detector.detect(picture, live);
    const crops = detections.map((detection) => faceCrop(picture, detection, model));
    const answers = await this.probabilities(crops, model);
    return detections.map((detection, index) => this.face(detection, crops[index], answers[index], model));
  }

  face(detection, crop, probabilities, { names, threshold }) {
    const score = Math.max(...probabilities);
    return {
      box: detection.box,
      label: names[probabilities.indexOf(score)],
      score,
      uncertain: threshold === null ? null : score < threshold,
      probabilities: Object.fromEntries(names.map((name, index) => [name, probabilities[index]])),
      detector_score: detection.score,
      crop,
    };
  }

  async probabilities(crops, model) {
    const rows = [];
    for (let start = 0; start < crops.length; start += BATCH) {
      rows.push(...(await this.batch(crops.slice(start, start + BATCH), model)));
    }
    return rows;
  }

  async batch(crops, { session, imageSize, grey, names }) {
    const length = crops[0].data.length;
    const data = new Uint8Array(crops.length * length);
    crops.forEach((crop, index) => data.set(crop.data, index * length));
    const shape = [crops.length, imageSize, imageSize, ...(grey ? [] : [3])];
    const outputs = await session.run({ faces: new this.ort.Tensor("uint8", data, shape) }, ["probabilities"]);
    const values = outputs.probabilities.data;
    return crops.map((_, index) => checked(Array.from(values.subarray(index * names.length, (index + 1) * names.length))));
  }

  /** The heat map of a crop for a label: Float32Array, a number for each pixel. */
  async explain(crop, label, model) {
    return occlusion(crop, (crops) => this.probabilities(crops, model), model.names.indexOf(label));
  }
}

function checked(probabilities) {
  const sum = probabilities.reduce((total, value) => total + value, 0);
  if (!(Math.abs(sum - 1) <= ROUNDING && Math.min(...probabilities) >= -ROUNDING)) {
    throw new Error("the model answers with values that are no probabilities; export it again");
  }
  return probabilities;
}
