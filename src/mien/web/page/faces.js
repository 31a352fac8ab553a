// The list of faces: for each a card with the answer in words and a bar for every expression.

import { element } from "./dom.js";
import { drawCrop, drawHeat } from "./heat.js";
import { colourOf, percent, sentence, verdict } from "./labels.js";

const THUMB = 112;

export class FaceList {
  /**
   * @param root an <ol>.
   * @param actions {choose(index), explain(index) -> {relevance, size, crop}}.
   */
  constructor(root, actions) {
    this.root = root;
    this.actions = actions;
    this.cards = [];
  }

  clear() {
    this.cards = [];
    this.root.replaceChildren();
  }

  /**
   * Shows faces. Cards stay for the same place in the list, so that their bars move.
   * @param source an <img>, <canvas> or <video> with the faces, or null to show the crops that the network read.
   */
  update(faces, source, { explainable = true } = {}) {
    while (this.cards.length > faces.length) this.cards.pop().node.remove();
    while (this.cards.length < faces.length) {
      const card = new Card(this.cards.length, this.actions);
      this.cards.push(card);
      this.root.append(card.node);
    }
    faces.forEach((face, index) => this.cards[index].update(face, source, explainable));
    this.root.classList.toggle("is-many", faces.length > 2);
  }

  mark(index) {
    this.cards.forEach(({ node }, place) => node.classList.toggle("is-chosen", place === index));
  }

  focus(index) {
    this.cards[index]?.node.scrollIntoView({ block: "nearest", behavior: "smooth" });
  }
}

class Card {
  constructor(index, actions) {
    this.index = index;
    this.actions = actions;
    this.thumb = element("canvas", { class: "thumb", width: THUMB, height: THUMB, "aria-hidden": "true" });
    this.number = element("span", { class: "number" });
    this.word = element("h3", { class: "word" });
    this.detail = element("p", { class: "detail" });
    this.bars = element("ul", { class: "bars" });
    this.button = element("button", { type: "button", class: "quiet", onclick: () => this.explain() }, "Show what it depends on");
    this.heat = element("div", { class: "heat" });
    const words = element("div", {}, this.number, this.word, this.detail);
    const head = element("div", { class: "face-head" }, this.thumb, words);
    this.node = element("li", { class: "face", onpointerenter: () => actions.choose(index) }, head, this.bars, this.button, this.heat);
    this.rows = new Map();
  }

  update(face, source, explainable) {
    this.face = face;
    this.source = source;
    const { word, detail } = verdict(face);
    this.node.classList.toggle("is-uncertain", Boolean(face.uncertain));
    this.node.style.setProperty("--colour", colourOf(face.label));
    this.number.textContent = `Face ${face.id ?? this.index}`;
    this.word.textContent = word;
    this.detail.textContent = detail;
    this.button.hidden = !explainable;
    for (const [name, value] of Object.entries(face.probabilities)) this.bar(name, value, name === face.label);
    this.drawThumb();
  }

  bar(name, value, isBest) {
    if (!this.rows.has(name)) {
      const fill = element("i", {});
      const number = element("span", { class: "share" });
      const track = element("span", { class: "track", "aria-hidden": "true" }, fill);
      const row = element("li", {}, element("span", { class: "name" }, name), track, number);
      fill.style.setProperty("--colour", colourOf(name));
      this.bars.append(row);
      this.rows.set(name, { row, fill, number });
      fill.getBoundingClientRect(); // so that the bar grows from nothing
    }
    const { row, fill, number } = this.rows.get(name);
    fill.style.transform = `scaleX(${Math.max(value, 0.004)})`;
    number.textContent = percent(value);
    row.classList.toggle("is-best", isBest);
  }

  drawThumb() {
    const pen = this.thumb.getContext("2d");
    const { box, crop } = this.face;
    this.thumb.hidden = !this.source && !crop; // of films that the server reads
    if (this.source) {
      const side = 1.15 * Math.max(box[2], box[3]);
      pen.clearRect(0, 0, THUMB, THUMB);
      pen.drawImage(this.source, box[0] + (box[2] - side) / 2, box[1] + (box[3] - side) / 2, side, side, 0, 0, THUMB, THUMB);
    } else if (crop) {
      drawCrop(pen, crop, THUMB);
    }
  }

  async explain() {
    const hadFocus = document.activeElement === this.button;
    this.button.disabled = true;
    this.button.textContent = "Hiding parts of the face…";
    try {
      const canvas = element("canvas", { role: "img", tabindex: "-1", "aria-label": `Heat map of face ${this.index} for ${this.face.label}` });
      drawHeat(canvas, await this.actions.explain(this.index));
      const legend = element("p", { class: "legend" },
        element("span", { class: "against" }, `against ${this.face.label}`), element("span", { class: "for" }, `for ${this.face.label}`));
      const note = element("p", { class: "small" }, "Parts were hidden one after the other. This shows what the answer depends on, not what the person feels.");
      this.heat.replaceChildren(canvas, legend, note);
      this.button.hidden = true;
      if (hadFocus) canvas.focus({ preventScroll: true });
    } catch (error) {
      this.heat.replaceChildren(element("p", { class: "small", role: "alert" }, sentence(`that did not work: ${error.message}`)));
      this.button.textContent = "Try again";
    }
    this.button.disabled = false;
    if (hadFocus && !this.button.hidden) this.button.focus();
  }
}
