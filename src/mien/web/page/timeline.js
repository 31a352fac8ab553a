// The expressions of each face over the time of a film, stacked to 100 %.

import { drawn, element } from "./dom.js";
import { clock, colourOf, counted, percent } from "./labels.js";

const WIDTH = 1000;
const HEIGHT = 120;
const MOST_FACES = 6;

export class Timeline {
  /** @param {(time: number) => void} seek called with the time in seconds that was pressed. */
  constructor(root, seek) {
    this.root = root;
    this.seek = seek;
    this.cursors = [];
  }

  clear() {
    this.root.hidden = true;
    this.root.replaceChildren();
  }

  show(records, duration) {
    const faces = tracks(records);
    const shown = [...faces].sort((first, second) => second[1].length - first[1].length).slice(0, MOST_FACES);
    const step = records.length > 1 ? records[1].time_s - records[0].time_s : duration;
    this.cursors = [];
    const panels = shown.sort(([first], [second]) => first - second).map(([id, points]) => this.panel(id, points, step, duration));
    const names = shown.length ? Object.keys(shown[0][1][0].face.probabilities) : [];
    const legend = element("ul", { class: "key" }, ...names.map(keyOf));
    const more = faces.length > shown.length ? element("p", { class: "small" }, `${counted(faces.length - shown.length, "more face")} seen for a shorter time.`) : null;
    const empty = element("p", {}, "No face was seen at the moments that were read.");
    this.root.replaceChildren(element("h3", {}, "Over time"), ...(panels.length ? [...panels, legend] : [empty]), ...(more ? [more] : []));
    this.root.hidden = false;
  }

  /** Moves the line that shows the time. */
  at(time, duration) {
    for (const cursor of this.cursors) cursor.style.left = `${(100 * time) / duration}%`;
  }

  panel(id, points, step, duration) {
    const names = Object.keys(points[0].face.probabilities);
    const x = (time) => ((WIDTH * time) / duration).toFixed(1);
    const picture = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    for (const { time, face } of points) {
      let top = 0;
      const left = x(time - step / 2);
      const width = (1.5 + (WIDTH * step) / duration).toFixed(1);
      for (const name of names) {
        const height = HEIGHT * face.probabilities[name];
        picture.append(drawn("rect", { x: left, y: top.toFixed(1), width, height: (height + 0.5).toFixed(1), fill: colourOf(name) }));
        top += height;
      }
      if (face.uncertain) picture.append(drawn("rect", { x: left, y: HEIGHT - 5, width, height: 5, class: "unsure" }));
    }
    const cursor = element("span", { class: "cursor", "aria-hidden": "true" });
    this.cursors.push(cursor);
    const seek = (event) => {
      const { left, width } = event.currentTarget.getBoundingClientRect();
      this.seek((duration * (event.clientX - left)) / width);
    };
    const plot = element("div", { class: "plot", role: "img", "aria-label": summary(id, points, names, duration), onclick: seek }, picture, cursor);
    const caption = element("figcaption", {}, element("b", {}, `Face ${id}`), ` ${summary(id, points, names, duration, true)}`);
    return element("figure", {}, caption, plot);
  }
}

function keyOf(name) {
  const swatch = element("i", { "aria-hidden": "true" });
  swatch.style.background = colourOf(name);
  return element("li", {}, swatch, name);
}

/** [id, [{time, face}]] for every face. */
function tracks(records) {
  const faces = new Map();
  for (const { time_s: time, faces: seen } of records) {
    for (const face of seen) faces.set(face.id, [...(faces.get(face.id) ?? []), { time, face }]);
  }
  return [...faces];
}

function summary(id, points, names, duration, brief = false) {
  const mean = (name) => points.reduce((sum, { face }) => sum + face.probabilities[name], 0) / points.length;
  const best = names.reduce((first, second) => (mean(second) > mean(first) ? second : first));
  const unsure = points.filter(({ face }) => face.uncertain).length / points.length;
  const isShort = duration < 60; // its tenths of a second matter
  const period = `${clock(points[0].time, isShort)} to ${clock(points.at(-1).time, isShort)}`;
  const text = `${period}, on average ${best} ${percent(mean(best))}, not sure ${percent(unsure)} of the time`;
  return brief ? text : `Face ${id}: ${text}`;
}
