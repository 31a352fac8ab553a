// Follows faces from frame to frame and smooths their probabilities: mien.recognition.film.tracking, without cuts.

import { overlap } from "./reading/yunet.js";

const SMOOTHING_S = 0.25;
const PATIENCE_S = 0.5;
const PATIENCE_UPDATES = 2;
const FARTHEST = 1;
const LARGEST_RATIO = 2;
const LIKENESS = 0.6;
const LOOKS_S = 0.3;
const VELOCITY_S = 0.15;
const LOOK = 16;
const FLAT = 2;

export class Tracker {
  /** @param {number | null} threshold probability below which an answer is uncertain. */
  constructor(threshold, smoothing = SMOOTHING_S) {
    this.threshold = threshold;
    this.smoothing = smoothing;
    this.tracks = [];
    this.next = 0;
  }

  /** The faces of the next frame with `id` and smoothed probabilities. */
  update(faces, time) {
    const looks = faces.map(({ crop }) => look(crop));
    const matches = this.match(faces, looks, time);
    const followed = faces.map((face, index) => {
      const probabilities = Object.values(face.probabilities);
      let track = matches.get(index);
      if (track) {
        this.follow(track, face.box, probabilities, time);
      } else {
        track = { id: this.next++, box: face.box, velocity: null, seen: time, missed: 0, probabilities };
        this.tracks.push(track);
      }
      track.missed = -1;
      track.look = looks[index];
      return this.smoothed(face, track);
    });
    for (const track of this.tracks) track.missed += 1;
    this.tracks = this.tracks.filter(
      ({ missed, seen }) => missed <= PATIENCE_UPDATES || time - seen <= PATIENCE_S + 1e-9,
    );
    return followed;
  }

  match(faces, looks, time) {
    const pairs = [];
    for (const track of this.tracks) {
      const expected = predicted(track, time);
      faces.forEach((face, index) => {
        const distance = mismatch(expected, face.box);
        const isRecent = time - track.seen <= LOOKS_S + 1e-9;
        if (distance !== null && !(isRecent && isAnother(track.look, looks[index]))) {
          pairs.push({ distance, track, index });
        }
      });
    }
    pairs.sort((first, second) => first.distance - second.distance);
    const matches = new Map();
    const taken = new Set();
    for (const { track, index } of pairs) {
      if (matches.has(index) || taken.has(track)) continue;
      matches.set(index, track);
      taken.add(track);
    }
    return matches;
  }

  follow(track, box, probabilities, time) {
    const passed = Math.max(time - track.seen, 1e-6);
    const [across, down] = middle(box);
    const [formerAcross, formerDown] = middle(track.box);
    let velocity = [(across - formerAcross) / passed, (down - formerDown) / passed];
    if (track.velocity) {
      const share = 1 - Math.exp(-passed / VELOCITY_S);
      velocity = track.velocity.map((value, axis) => value + share * (velocity[axis] - value));
    }
    const share = this.smoothing ? 1 - Math.exp(-passed / this.smoothing) : 1;
    track.probabilities = track.probabilities.map((value, index) => value + share * (probabilities[index] - value));
    Object.assign(track, { box, velocity, seen: time });
  }

  smoothed(face, track) {
    const names = Object.keys(face.probabilities);
    const score = Math.max(...track.probabilities);
    return {
      ...face,
      id: track.id,
      label: names[track.probabilities.indexOf(score)],
      score,
      uncertain: this.threshold === null ? null : score < this.threshold,
      probabilities: Object.fromEntries(names.map((name, index) => [name, track.probabilities[index]])),
    };
  }
}

function predicted({ box, velocity, seen }, time) {
  const [right, down] = velocity ?? [0, 0];
  return [box[0] + right * (time - seen), box[1] + down * (time - seen), box[2], box[3]];
}

const middle = ([left, top, width, height]) => [left + width / 2, top + height / 2];

/** 1 - overlap + distance in sides of two boxes; null if they cannot show the same face. */
function mismatch(first, second) {
  const [side, secondSide] = [first, second].map((box) => Math.sqrt(Math.max(box[2] * box[3], 1e-9)));
  if (Math.max(side, secondSide) > LARGEST_RATIO * Math.min(side, secondSide)) return null;
  const [across, down] = middle(first);
  const [secondAcross, secondDown] = middle(second);
  const distance = Math.hypot(across - secondAcross, down - secondDown) / ((side + secondSide) / 2);
  return distance > FARTHEST ? null : 1 - overlap(first, second) + distance;
}

/** The mean grey of 16 x 16 cells of a crop; null if there is none. */
function look(crop) {
  if (!crop || crop.width < LOOK) return null;
  const edges = Array.from({ length: LOOK + 1 }, (_, index) => Math.trunc((index * crop.width) / LOOK));
  const cells = new Float64Array(LOOK * LOOK);
  for (let row = 0; row < LOOK; row++) {
    for (let column = 0; column < LOOK; column++) {
      let sum = 0;
      let count = 0;
      for (let y = edges[row]; y < edges[row + 1]; y++) {
        const start = (y * crop.width + edges[column]) * crop.channels;
        const end = (y * crop.width + edges[column + 1]) * crop.channels;
        for (let at = start; at < end; at++, count++) sum += crop.data[at];
      }
      cells[row * LOOK + column] = sum / count;
    }
  }
  return cells;
}

/** True if two crops at the same place show different faces, as after a cut between similar shots. */
function isAnother(before, after) {
  if (!before || !after || Math.min(deviation(before), deviation(after)) < FLAT) return false;
  let best = -1;
  for (const down of [-1, 0, 1]) {
    for (const right of [-1, 0, 1]) best = Math.max(best, correlation(before, after, down, right));
  }
  return best < LIKENESS;
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function deviation(values) {
  const centre = mean(values);
  return Math.sqrt(mean(values.map((value) => (value - centre) ** 2)));
}

function correlation(first, second, down, right) {
  const [here, there] = [[], []];
  for (let row = Math.max(0, down); row < LOOK + Math.min(0, down); row++) {
    for (let column = Math.max(0, right); column < LOOK + Math.min(0, right); column++) {
      here.push(first[row * LOOK + column]);
      there.push(second[(row - down) * LOOK + column - right]);
    }
  }
  const [centre, secondCentre] = [mean(here), mean(there)];
  let [product, power, secondPower] = [0, 0, 0];
  here.forEach((value, index) => {
    product += (value - centre) * (there[index] - secondCentre);
    power += (value - centre) ** 2;
    secondPower += (there[index] - secondCentre) ** 2;
  });
  return product / Math.max(Math.sqrt(power * secondPower), 1e-6 * here.length);
}
