// The detector: mien.recognition.detectors, with the same numbers. Rows are
// [left, top, width, height, score, class score] in pixels.

import { flipped, mirrored, part, round, toGrey } from "./pixels.js";
import { placed, plan, quickPlan, resized, tilePixels, uncut } from "./search.js";

export const MARGIN = 0.02;
export const MIN_FACE = 24;
const SCORE = 0.67;
const SURE = 0.9;
const DOUBTFUL = 0.35;
const GLIMPSE = 0.2;
const TINY = 32;
const CLOSER = [48, 128];
const TOLERANCE = 0.9;
const NEAR = 1e-6;
const STRIDES = [8, 16, 32];

/** Longest side in pixels at which a live picture is searched; YuNet finds faces from about 13 pixels of it on. */
const LIVE_SIDE = 256;

const UPRIGHT = [96, 192];
const TURNED = [72, 160];
const WEIGHTS = [3.5, 7.5, 4.5, -2.0, 2.5];
const BIAS = -19.3;
const LARGEST = 128;
const LEAST = 0.1;

export class YuNet {
  /** @param run takes {data: Float32Array, shape} and answers the outputs of the network by name. */
  constructor(run) {
    this.run = run;
  }

  /**
   * Finds the faces of a picture, from left to right: {box, score, whole}.
   * @param {boolean} live one coarse look only, for a camera: larger faces, at a fifth of the time.
   */
  async detect(picture, live = false) {
    const { width, height } = picture;
    const isGrey = picture.channels === 1;
    const tiles = live ? quickPlan(height, width, LIVE_SIDE) : plan(height, width, MIN_FACE, isGrey);
    const candidates = [];
    for (const tile of tiles) candidates.push(...(await this.firstLook(picture, tile, live)));
    const rows = suppressed(candidates).filter((row) => Math.max(row[2], row[3]) >= TOLERANCE * MIN_FACE);
    const looks = [];
    for (const row of rows.filter((row) => row[4] < SURE)) looks.push(...(await this.judge(picture, row)));
    const detections = [];
    for (const row of [...rows.filter((row) => row[4] >= SURE), ...looks]) {
      const whole = row.slice(0, 4);
      const box = within(whole, width, height);
      if (Math.min(box[2], box[3]) >= 1) {
        const isCut = whole.some((value, side) => Math.abs(value - box[side]) > NEAR);
        detections.push({ box, score: row[4], whole: isCut ? whole : null });
      }
    }
    return withoutDuplicates(detections);
  }

  /** The candidates in one tile, in pixels of the picture; places with few pixels in the finest tiles get a closer look. */
  async firstLook(picture, tile, live) {
    const [all] = await this.read([tilePixels(picture, tile)], live ? DOUBTFUL : GLIMPSE);
    const rows = suppressed(uncut(tile, all, picture.height, picture.width));
    // A coarser tile shows a face with few pixels that a finer one shows with many.
    const isTiny = (row) => tile.finest && !live && Math.max(row[2], row[3]) < TINY;
    const candidates = placed(tile, rows.filter((row) => !isTiny(row) && row[4] >= Math.fround(DOUBTFUL)));
    for (const row of placed(tile, rows.filter(isTiny))) candidates.push(...(await this.closer(picture, row)));
    return candidates;
  }

  /** Repeats the first look at one place with more pixels; [row], or [] if it is no face. */
  async closer(picture, row) {
    const { tile, view } = viewOf(picture, row, CLOSER, false);
    const [rows] = await this.read([view], DOUBTFUL);
    const nearest = middle(rows, CLOSER);
    return nearest[4] ? placed(tile, [nearest]) : [];
  }

  /** Runs the network on pictures of one size; the rows of each picture, the surest first. */
  async read(pictures, least) {
    const { width, height } = pictures[0];
    const wide = Math.ceil(width / 32) * 32;
    const high = Math.ceil(height / 32) * 32;
    const data = new Float32Array(pictures.length * 3 * wide * high);
    pictures.forEach((picture, index) => fill(data.subarray(index * 3 * wide * high), picture, wide, high));
    const outputs = await this.run({ data, shape: [pictures.length, 3, high, wide] });
    return pictures.map((_, index) => {
      const rows = STRIDES.flatMap((stride) => decoded(outputs, stride, index, pictures.length, wide / stride, least));
      return rows.sort((first, second) => second[4] - first[4]);
    });
  }

  /** A second look at a doubtful place: enlarged, grey, in the mirror and upside down; [row], or [] if it is no face. */
  async judge(picture, row) {
    const { tile, view } = viewOf(picture, row, UPRIGHT);
    const seen = await this.read([view, mirrored(view)], LEAST);
    const [upright, mirror] = seen.map((rows) => middle(rows, UPRIGHT));
    const second = (upright[4] + mirror[4]) / 2;
    const likeness = (upright[5] + mirror[5]) / 2;
    const side = Math.max(row[2], row[3]);
    const surety = (turned) => evidence([row[4], second, likeness, turned], side);
    let turned = 0;
    if (surety(1) < SCORE && SCORE <= surety(0)) {
      const upsideDown = flipped(viewOf(picture, row, TURNED).view);
      const views = await this.read([upsideDown, mirrored(upsideDown)], LEAST);
      turned = Math.max(...views.map((rows) => middle(rows, TURNED)[4]));
    }
    if (!upright[4] || surety(turned) < SCORE) return [];
    const [confirmed] = placed(tile, [upright]);
    confirmed[4] = (row[4] + second) / 2;
    return [confirmed];
  }
}

/** Blue, green and red planes from 0 to 255; black on the right and below. */
function fill(planes, picture, wide, high) {
  const { data, width, height, channels } = picture;
  const plane = wide * high;
  for (let y = 0, from = 0; y < height; y++) {
    let to = y * wide;
    for (let x = 0; x < width; x++, to++, from += channels) {
      if (channels === 1) {
        planes[to] = planes[to + plane] = planes[to + 2 * plane] = data[from];
      } else {
        planes[to] = data[from + 2];
        planes[to + plane] = data[from + 1];
        planes[to + 2 * plane] = data[from];
      }
    }
  }
}

function decoded(outputs, stride, index, count, columns, least) {
  const classes = outputs[`cls_${stride}`];
  const objects = outputs[`obj_${stride}`];
  const boxes = outputs[`bbox_${stride}`];
  const cells = classes.length / count;
  const rows = [];
  for (let cell = 0; cell < cells; cell++) {
    const at = index * cells + cell;
    const likeness = Math.min(Math.max(classes[at], 0), 1);
    const score = Math.fround(Math.sqrt(Math.fround(likeness * Math.min(Math.max(objects[at], 0), 1))));
    if (!(score >= Math.fround(least))) continue;
    const [right, down, wide, high] = boxes.subarray(4 * at, 4 * at + 4);
    const width = Math.exp(Math.min(Math.max(wide, -20), 20)) * stride;
    const height = Math.exp(Math.min(Math.max(high, -20), 20)) * stride;
    const x = ((cell % columns) + right) * stride;
    const y = (Math.floor(cell / columns) + down) * stride;
    const row = [x - width / 2, y - height / 2, width, height, score, likeness];
    if (row.every(Number.isFinite)) rows.push(row);
  }
  return rows;
}

/** Non-maximum suppression: keeps the surest of the boxes that overlap. */
function suppressed(rows, union = 0.3) {
  const remaining = [];
  for (const row of [...rows].sort((first, second) => second[4] - first[4])) {
    const overlaps = remaining.some((surer) => {
      const shared = intersection(surer, row);
      return shared > union * (surer[2] * surer[3] + row[2] * row[3] - shared);
    });
    if (!overlaps) remaining.push(row);
  }
  return remaining;
}

function intersection(first, second) {
  const across = Math.min(first[0] + first[2], second[0] + second[2]) - Math.max(first[0], second[0]);
  const down = Math.min(first[1] + first[3], second[1] + second[3]) - Math.max(first[1], second[1]);
  return Math.max(0, across) * Math.max(0, down);
}

/** Intersection over union of two boxes. */
export function overlap(first, second) {
  const shared = intersection(first, second);
  return shared ? shared / (first[2] * first[3] + second[2] * second[3] - shared) : 0;
}

function within([left, top, width, height], pictureWidth, pictureHeight) {
  const first = [Math.max(0, left), Math.max(0, top)];
  const last = [Math.min(pictureWidth, left + width), Math.min(pictureHeight, top + height)];
  return [...first, Math.max(0, last[0] - first[0]), Math.max(0, last[1] - first[1])];
}

/** The surest detection of each face, from left to right. */
function withoutDuplicates(detections, union = 0.3, nested = 0.6) {
  const distinct = [];
  for (const candidate of [...detections].sort((first, second) => second.score - first.score)) {
    const [, , width, height] = candidate.box;
    const isTaken = distinct.some(({ box }) => {
      const smaller = Math.min(width * height, box[2] * box[3]);
      return overlap(candidate.box, box) > union || intersection(candidate.box, box) > nested * smaller;
    });
    if (!isTaken) distinct.push(candidate);
  }
  return distinct.sort((first, second) => first.box[0] - second.box[0] || first.box[1] - second.box[1]);
}

function evidence(values, side) {
  const terms = [...values, Math.log(Math.min(Math.max(side, 1), LARGEST))];
  const logit = terms.reduce((sum, value, index) => sum + WEIGHTS[index] * value, BIAS);
  return 1 / (1 + Math.exp(-logit));
}

/** The square view around a box: its place in the picture, and its pixels, black outside the picture. */
function viewOf(picture, row, [face, room], grey = true) {
  const side = Math.max(2, round((Math.max(row[2], row[3]) * room) / face));
  const left = round(row[0] + (row[2] - side) / 2);
  const top = round(row[1] + (row[3] - side) / 2);
  const down = covered(top, side, picture.height, room);
  const across = covered(left, side, picture.width, room);
  const region = part(picture, across.low, down.low, across.high, down.high);
  const coloured = resized(region, across.end - across.start, down.end - down.start);
  const filled = grey ? toGrey(coloured) : coloured;
  const { channels } = filled;
  const data = new Uint8Array(room * room * channels);
  for (let y = 0; y < filled.height; y++) {
    const line = filled.data.subarray(y * filled.width * channels, (y + 1) * filled.width * channels);
    data.set(line, ((down.start + y) * room + across.start) * channels);
  }
  const tile = { left, top, right: left + side, bottom: top + side, width: room, height: room };
  return { tile, view: { data, width: room, height: room, channels } };
}

/** Along one axis: start and end in the view, and the pixels [low, high) of the picture that fill it. */
function covered(start, side, length, room) {
  const low = Math.min(Math.max(start, 0), length - 1);
  const high = Math.max(Math.min(start + side, length), low + 1);
  const first = Math.min(Math.max(round(((low - start) * room) / side), 0), room - 1);
  const end = Math.max(first + 1, Math.min(round(((high - start) * room) / side), room));
  return { start: first, end, low, high };
}

/** The surest box in the middle of a view that has about the expected size; zeros if there is none. */
function middle(rows, [face, room]) {
  const fitting = rows.filter((row) => {
    const off = Math.max(Math.abs(row[0] + row[2] / 2 - room / 2), Math.abs(row[1] + row[3] / 2 - room / 2));
    const side = Math.max(row[2], row[3]);
    return off < 0.35 * face && side > 0.55 * face && side < 1.7 * face;
  });
  return fitting[0] ?? [0, 0, 0, 0, 0, 0];
}
