// Reads and edits ONNX files as protocol buffers (https://protobuf.dev/programming-guides/encoding), as
// mien.recognition.onnx_sizes does, since the browser brings no other reader.

const VARINT = 0;
const FIXED64 = 1;
const LENGTH = 2;
const FIXED32 = 5;

// Field numbers of onnx.proto.
const MODEL_GRAPH = 7;
const MODEL_METADATA = 14;
const GRAPH_INPUT = 11;
const GRAPH_OUTPUT = 12;
const GRAPH_VALUE_INFO = 13;

const text = new TextEncoder();

/** What `mien export` wrote into a file, as an object of parsed values. */
export function metadata(model) {
  const decoder = new TextDecoder();
  const values = {};
  for (const { number, value } of fields(model)) {
    if (number !== MODEL_METADATA) continue;
    const [key, json] = [1, 2].map((wanted) => fields(value).find((field) => field.number === wanted)?.value);
    values[decoder.decode(key)] = JSON.parse(decoder.decode(json));
  }
  return values;
}

/** A YuNet file that takes any number of pictures of any size; the one of OpenCV Zoo declares 640 x 640 pixels. */
export function anySize(model) {
  return joined(
    fields(model).map(({ number, kind, value }) => encoded(number, kind, number === MODEL_GRAPH ? graph(value) : value)),
  );
}

function graph(bytes) {
  const parts = [];
  for (const { number, kind, value } of fields(bytes)) {
    if (number === GRAPH_VALUE_INFO) continue; // shapes in between were computed for 640 x 640
    const isOutside = number === GRAPH_INPUT || number === GRAPH_OUTPUT;
    parts.push(encoded(number, kind, isOutside ? freed(value, number === GRAPH_INPUT) : value));
  }
  return joined(parts);
}

/** A ValueInfoProto of the same name whose sizes are free. */
function freed(valueInfo, isInput) {
  const name = fields(valueInfo).find(({ number }) => number === 1).value;
  const label = new TextDecoder().decode(name);
  const sides = isInput ? ["n", 3, "h", "w"] : [0, 1, 2].map((axis) => `${label}_${axis}`);
  const dimensions = sides.map((side) =>
    encoded(1, LENGTH, typeof side === "number" ? encoded(1, VARINT, side) : encoded(2, LENGTH, text.encode(side))),
  );
  const tensor = joined([encoded(1, VARINT, 1), encoded(2, LENGTH, joined(dimensions))]);
  return joined([encoded(1, LENGTH, name), encoded(2, LENGTH, encoded(1, LENGTH, tensor))]);
}

/** Number, wire type and value of every field, in order. */
function fields(message) {
  const result = [];
  let place = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; place < message.length; scale *= 128) {
      const byte = message[place++];
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
    }
    throw new Error("the file ends in the middle of a number");
  };
  while (place < message.length) {
    const key = varint();
    const number = Math.floor(key / 8);
    const kind = key % 8;
    let value;
    if (kind === VARINT) {
      const start = place;
      varint();
      value = message.subarray(start, place); // as it stands: it may be larger than a number of JavaScript
    } else {
      const length = { [FIXED32]: 4, [FIXED64]: 8 }[kind] ?? (kind === LENGTH ? varint() : NaN);
      if (!(place + length <= message.length)) throw new Error("the file ends in the middle of a field");
      value = message.subarray(place, place + length);
      place += length;
    }
    result.push({ number, kind, value });
  }
  return result;
}

function encoded(number, kind, value) {
  const key = varintBytes(number * 8 + kind);
  if (kind === LENGTH) return joined([key, varintBytes(value.length), value]);
  return joined([key, typeof value === "number" ? varintBytes(value) : value]);
}

function varintBytes(number) {
  const bytes = [];
  let value = number;
  for (; value > 0x7f; value = Math.floor(value / 128)) bytes.push((value % 128) + 128);
  bytes.push(value);
  return Uint8Array.from(bytes);
}

function joined(parts) {
  const bytes = new Uint8Array(parts.reduce((sum, piece) => sum + piece.length, 0));
  let place = 0;
  for (const piece of parts) {
    bytes.set(piece, place);
    place += piece.length;
  }
  return bytes;
}
