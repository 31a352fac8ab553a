// The strip of everything that was read in this visit. It lives in this tab only, and ends with it.

import { element } from "./dom.js";
import { counted } from "./labels.js";
import { savedRecords } from "./results.js";

const HEIGHT = 72;
const MARGIN = 16; // pixels that a tile keeps to the left end of the strip when it is scrolled to

export class Visit {
  /** @param root an <ol>; @param open called with an item that is to be shown. */
  constructor(root, open) {
    this.root = root;
    this.open = open;
    this.items = [];
  }

  add(item) {
    this.items.push(item);
    const picture = element("canvas", { width: HEIGHT, height: HEIGHT, "aria-hidden": "true" });
    const caption = element("span", { class: "caption" });
    const button = element("button", { type: "button", onclick: () => this.open(item) }, picture, caption);
    item.tile = { node: element("li", {}, button), button, picture, caption };
    this.root.append(item.tile.node);
    this.refresh(item);
  }

  /** Shows what became of an item: waiting, its faces, or an error. */
  refresh(item) {
    const { node, button, caption } = item.tile;
    const text = item.error ? (item.video ? "read in part" : "cannot be read") : item.isDone ? facesOf(item) : "waiting";
    caption.textContent = text;
    node.dataset.done = String(item.isDone);
    button.setAttribute("aria-label", `${item.name}: ${text}`);
    button.classList.toggle("is-broken", Boolean(item.error));
  }

  /** Draws the small picture of an item, an <img>, <canvas> or <video> in the middle of a square. */
  draw(item, source, width, height) {
    const side = Math.min(width, height);
    const pen = item.tile.picture.getContext("2d");
    pen.drawImage(source, (width - side) / 2, (height - side) / 2, side, side, 0, 0, HEIGHT, HEIGHT);
  }

  mark(item) {
    for (const other of this.items) {
      if (other === item) other.tile.button.setAttribute("aria-current", "true");
      else other.tile.button.removeAttribute("aria-current");
    }
    const [strip, tile] = [this.root, item.tile.node].map((node) => node.getBoundingClientRect());
    if (tile.left < strip.left || tile.right > strip.right) this.root.scrollLeft += tile.left - strip.left - MARGIN;
  }

  clear() {
    for (const { url } of this.items) URL.revokeObjectURL(url);
    this.items = [];
    this.root.replaceChildren();
  }

  /** The items that were read. */
  get done() {
    return this.items.filter(({ isDone }) => isDone);
  }

  get records() {
    return this.done.flatMap(savedRecords);
  }
}

function facesOf({ kind, records }) {
  if (kind === "film") return counted(new Set(records.flatMap(({ faces }) => faces.map(({ id }) => id))).size, "face");
  return counted(records[0]?.faces.length ?? 0, "face");
}
