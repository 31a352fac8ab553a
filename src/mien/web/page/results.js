// Results as files: the same records and columns as `mien predict --json` and `--csv`.

import { colourOf, percent } from "./labels.js";

/** A record as mien.recognition.results writes it: no pixels, boxes to a tenth of a pixel. */
export function plainRecord(record) {
  return {
    ...record,
    faces: record.faces.map(({ box, label, score, uncertain, probabilities, detector_score, id }) => ({
      box: box.map((value) => Math.round(10 * value) / 10),
      label, score, uncertain, probabilities, detector_score,
      ...(id === undefined ? {} : { id }),
    })),
  };
}

export const brokenRecord = (input, error, frame = null) => ({
  input, status: "error", error, width: null, height: null, frame, time_s: null, faces: [],
});

/** The records of an item to save; of a film whose reading ended early, with a last one that says so. */
export function savedRecords({ name, records, error, video }) {
  const isPart = error && video;
  return isPart ? [...records, brokenRecord(name, `reading ended early: ${error}`, records.length)] : records;
}

export function json(records) {
  return new Blob([JSON.stringify(records.map(plainRecord), null, 2), "\n"], { type: "application/json" });
}

const OF_RECORD = ["input", "status", "error", "width", "height", "frame", "time_s"];

export function csv(records) {
  const names = [...new Set(records.flatMap(({ faces }) => faces.flatMap(({ probabilities }) => Object.keys(probabilities))))];
  const ofFace = ["face", "id", "box_x", "box_y", "box_w", "box_h", "label", "score", "uncertain", "detector_score"];
  const rows = [[...OF_RECORD, ...ofFace, ...names.map((name) => `probability_${name}`)]];
  for (const record of records.map(plainRecord)) {
    const common = OF_RECORD.map((key) => record[key]);
    if (!record.faces.length) rows.push(common);
    record.faces.forEach((face, index) => {
      const values = [index, face.id, ...face.box, face.label, face.score, face.uncertain, face.detector_score];
      rows.push([...common, ...values, ...names.map((name) => face.probabilities[name])]);
    });
  }
  const lines = rows.map((row) => rows[0].map((_, column) => cell(row[column], column === 0)).join(","));
  return new Blob([lines.join("\n"), "\n"], { type: "text/csv" });
}

/** No cell is a formula for a spreadsheet, and none breaks a line. */
function cell(value, isPath) {
  if (value === null || value === undefined) return "";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "string") return String(value);
  const text = value.replace(/[\r\n\t]/g, " ");
  const safe = /^[=+\-@＝＋－＠]/.test(text) ? `${isPath ? "./" : "'"}${text}` : text;
  return /[",]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** The picture with a box and a label for every face, as a PNG. */
export async function annotated(source, width, height, faces) {
  const canvas = new OffscreenCanvas(width, height);
  const pen = canvas.getContext("2d");
  pen.drawImage(source, 0, 0, width, height);
  const widest = Math.max(2, Math.round(Math.min(width, height) / 200));
  for (const face of [...faces].sort((first, second) => second.box[2] - first.box[2])) {
    const [left, top, wide, high] = face.box;
    const line = Math.max(1, Math.min(widest, Math.floor(Math.min(wide, high) / 24))); // a small face stays visible
    pen.setLineDash(face.uncertain ? [3 * line, 2 * line] : []);
    pen.lineWidth = 2 * line;
    pen.strokeStyle = "rgb(20 22 26)";
    pen.strokeRect(left, top, wide, high);
    pen.lineWidth = line;
    pen.strokeStyle = colourOf(face.label);
    pen.strokeRect(left, top, wide, high);
  }
  for (const face of faces) plate(pen, face, width, height);
  return canvas.convertToBlob({ type: "image/png" });
}

function plate(pen, face, width, height) {
  const [left, top, , high] = face.box;
  const size = Math.min(Math.max(12, Math.round(high / 8)), Math.max(12, Math.round(Math.min(width, height) / 24)));
  pen.font = `600 ${size}px system-ui, sans-serif`;
  const text = `${face.label}${face.uncertain ? "?" : ""} ${percent(face.score)}`;
  const wide = pen.measureText(text).width + size;
  const tall = 1.5 * size;
  const x = Math.min(Math.max(left, 0), Math.max(0, width - wide));
  const y = top >= tall ? top - tall : Math.min(top + high, height - tall);
  pen.fillStyle = "rgb(20 22 26)";
  pen.fillRect(x, y, wide, tall);
  pen.fillStyle = colourOf(face.label);
  pen.fillRect(x, y, size / 4, tall);
  pen.fillStyle = "white";
  pen.textBaseline = "middle";
  pen.fillText(text, x + size / 2 + size / 8, y + tall / 2);
}
