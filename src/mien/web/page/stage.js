// The picture, film or camera with a box on every face. Boxes are buttons, so that the keyboard reaches them.

import { element } from "./dom.js";
import { colourOf, percent } from "./labels.js";

export class Stage {
  /**
   * @param root the element that holds picture and boxes.
   * @param {(index: number) => void} choose called if a box is pressed.
   */
  constructor(root, choose) {
    this.layer = element("div", { class: "boxes" });
    this.frame = element("div", { class: "frame" });
    this.choose = choose;
    this.boxes = [];
    root.replaceChildren(this.frame);
  }

  /** Shows an <img>, <canvas> or <video> of a size in pixels; null for a picture that this browser cannot show. */
  show(media, width, height) {
    this.fit(width, height);
    const stand = element("p", { class: "no-preview" }, "This browser cannot show the picture; the faces in it were read.");
    this.frame.replaceChildren(media ?? stand, this.layer);
    this.setFaces([], width, height);
  }

  /** Gives the frame the shape of a picture. */
  fit(width, height) {
    this.frame.style.aspectRatio = `${width} / ${height}`;
    this.frame.style.setProperty("--ratio", String(width / height));
  }

  clear() {
    this.setFaces([], 1, 1);
    this.frame.replaceChildren();
  }

  setFaces(faces, width, height) {
    while (this.boxes.length > faces.length) this.boxes.pop().remove();
    while (this.boxes.length < faces.length) this.boxes.push(this.newBox(this.boxes.length));
    faces.forEach((face, index) => place(this.boxes[index], face, index, width, height));
  }

  newBox(index) {
    const label = element("span", { class: "chip" });
    const box = element("button", { type: "button", class: "box", onclick: () => this.choose(index) }, label);
    this.layer.append(box);
    return box;
  }

  /** Marks one box; -1 marks none. */
  mark(index) {
    this.boxes.forEach((box, place) => box.classList.toggle("is-chosen", place === index));
  }
}

function place(box, face, index, width, height) {
  const [left, top, wide, high] = face.box;
  box.style.left = `${(100 * left) / width}%`;
  box.style.top = `${(100 * top) / height}%`;
  box.style.width = `${(100 * wide) / width}%`;
  box.style.height = `${(100 * high) / height}%`;
  box.style.setProperty("--colour", colourOf(face.label));
  box.classList.toggle("is-uncertain", Boolean(face.uncertain));
  const isAtTop = top / height < 0.08; // no room for the label above
  const isAtBottom = (top + high) / height > 0.92;
  box.classList.toggle("has-label-below", isAtTop && !isAtBottom);
  box.classList.toggle("has-label-inside", isAtTop && isAtBottom);
  const number = face.id ?? index; // as in the tables
  const text = face.uncertain ? `${face.label}?` : face.label;
  box.firstChild.replaceChildren(
    element("b", {}, String(number)),
    element("span", {}, ` ${text} ${percent(face.score)}`),
  );
  box.setAttribute("aria-label", `Face ${number}: ${face.uncertain ? "not sure, most like " : ""}${face.label}, ${percent(face.score)}`);
}
