// Names, colours and numbers as the page shows them.

const COLOURS = {
  angry: [226, 75, 60],
  disgust: [126, 170, 60],
  fear: [157, 108, 214],
  happy: [244, 190, 46],
  sad: [72, 132, 220],
  surprise: [240, 132, 190],
  neutral: [172, 180, 186],
};
const OTHER_COLOURS = [[60, 180, 175], [200, 140, 90], [120, 120, 255], [255, 140, 90], [140, 200, 140]];

/** Colour of an expression as CSS; the same as in the pictures that `mien predict --annotate` writes. */
export function colourOf(name) {
  const sum = new TextEncoder().encode(name).reduce((total, byte) => total + byte, 0);
  const [red, green, blue] = COLOURS[name] ?? OTHER_COLOURS[sum % OTHER_COLOURS.length];
  return `rgb(${red} ${green} ${blue})`;
}

export const percent = (share) => `${Math.round(100 * share)} %`;

export const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

/** A reason as a sentence. */
export const sentence = (reason) => `${reason[0].toUpperCase()}${reason.slice(1)}${reason.endsWith(".") ? "" : "."}`;

/** A time in a film: 0:07.4, 1:05. */
export function clock(seconds, fine = false) {
  const minutes = Math.floor(seconds / 60);
  const rest = fine ? (seconds % 60).toFixed(1).padStart(4, "0") : String(Math.floor(seconds % 60)).padStart(2, "0");
  return `${minutes}:${rest}`;
}

/** What is said about a face in a few words. */
export function verdict(face) {
  return face.uncertain
    ? { word: "not sure", detail: `most like ${face.label}, ${percent(face.score)}` }
    : { word: face.label, detail: `${percent(face.score)} sure` };
}
