// What the model is and how often it is right.

import { byId, element } from "./dom.js";
import { colourOf, counted, percent } from "./labels.js";

let shown = null; // the model that was shown last

/** Shows a model: an entry of built/models.json, or the answer of GET v1/model. */
export async function showModel(about) {
  shown = about;
  byId("about-name").textContent = about.title ?? about.name;
  byId("trained-on").textContent = trainedOn(about);
  byId("facts").replaceChildren(...facts(about));
  const remark = `${about.accuracy?.clean ? WHOLE : ""}${isRounded(about) ? BEFORE : ""}`;
  byId("confusion").replaceChildren(...(about.scores?.confusion ? [confusion(about.scores, remark)] : []));
  byId("robustness").replaceChildren(...(about.robustness ? [robustness(about.robustness, remark)] : []));
  const report = byId("report-link");
  report.hidden = !about.report;
  if (about.report) report.href = about.report.replace(/^\//, "");
  const card = await cardOf(about);
  if (shown !== about) return; // another one was chosen meanwhile
  byId("card-box").hidden = !card;
  byId("card").replaceChildren(...(card ? markdown(card) : []));
}

/** The sentence of the start page on how often answers are right. */
export function accuracySentence({ accuracy, threshold, stated_accuracy: stated }) {
  if (!accuracy) return "Nobody has measured how often this model is right.";
  const { clean } = accuracy;
  const right = Math.round(100 * (clean ?? accuracy).value);
  const promise = ` If it is likely to be wrong it says “not sure”; of the other answers at least ${Math.round(100 * stated)} in 100 are right. That was measured on pictures like those of its training; on other photos it may be less.`;
  const never = " It says “not sure” of every answer: no limit was found from which on enough of them are right.";
  const sure = stated ? (threshold ? promise : never) : "";
  return `Of 100 faces${clean ? " that it cannot know" : ", some of which it may know from training,"} it names about ${right} as people had labelled them.${sure}`;
}

/** What the model learnt from. The models of this tab are Mien's own; the server says it of its model. */
function trainedOn({ trained_on_fer2013: isFer2013 = true }) {
  if (isFer2013) return "It was trained on 28,709 small grey faces that people had found on the web and labelled (FER2013). Those people often disagreed with each other, too.";
  return isFer2013 === null ? "What it was trained on is not recorded." : "It was trained on other faces than those of FER2013; the model card, if there is one, names them.";
}

const isRounded = ({ file }) => Boolean(file?.includes("int8"));
const BEFORE = "; measured before the weights were rounded to eight bits";
const WHOLE = ", near-copies of training pictures included";

async function cardOf(about) {
  if (!about.card?.startsWith("/")) return about.card ?? null;
  const answer = await fetch(about.card.slice(1), { headers: { Accept: "text/markdown" } }).catch(() => null);
  return answer?.ok ? answer.text() : null;
}

function facts({ accuracy, sure, threshold, stated_accuracy: stated, sha256, file, trained_on_fer2013: isFer2013 = true }) {
  const cards = [];
  const before = isRounded({ file }) ? BEFORE : "";
  if (accuracy) {
    const { value, low, high, pictures, split, clean } = accuracy;
    cards.push(fact(percent(value), "right", `${oneDecimal(low)} to ${oneDecimal(high)} % with 95 % confidence, on ${pictures.toLocaleString("en")} pictures${isFer2013 ? " of FER2013" : ""} (${split}${split === "validation" ? ", which also chose the model, so that it may be a little too high" : ""})`));
    if (clean) {
      cards.push(fact(percent(clean.value), "right on photos it cannot know", `${clean.pictures.toLocaleString("en")} of these pictures have no near-copy among the training pictures${before}`));
    }
  }
  if (sure) cards.push(fact(percent(sure.coverage), "of the answers are sure", `of these ${oneDecimal(sure.accuracy)} % are right; the others are shown as “not sure”${before}`));
  else if (threshold) cards.push(fact(percent(threshold), "is needed to be sure", `from there on ${percent(stated)} are right; lower answers are shown as “not sure”`));
  cards.push(fact(sha256.slice(0, 8), "start of the SHA-256", `of the file ${file ?? ""}`));
  return cards;
}

const oneDecimal = (share) => (100 * share).toFixed(1);

function fact(number, title, text) {
  return element("li", {}, element("p", { class: "figure" }, number), element("p", { class: "title" }, title), element("p", { class: "small" }, text));
}

/** What people said against what the model says, a row for each expression. */
function confusion({ names, confusion: counts }, remark) {
  const head = element("tr", {}, element("th", { scope: "col" }, "people said"), ...names.map((name) => element("th", { scope: "col" }, name)));
  const rows = counts.map((row, index) => {
    const total = row.reduce((sum, value) => sum + value, 0);
    const cells = row.map((value, column) => {
      const cell = element("td", {}, total ? String(Math.round((100 * value) / total)) : "–");
      cell.style.setProperty("--share", String(total && value / total));
      cell.classList.toggle("is-right", column === index);
      return cell;
    });
    const swatch = element("i", { "aria-hidden": "true" });
    swatch.style.background = colourOf(names[index]);
    return element("tr", {}, element("th", { scope: "row" }, swatch, names[index]), ...cells);
  });
  const caption = element("caption", {}, "Of 100 faces that people gave one label, how many get each answer", remark);
  return scrolling("Confusion table", element("table", { class: "confusion" }, caption, element("thead", {}, head), element("tbody", {}, ...rows)));
}

function robustness(rows, remark) {
  const body = rows.map(({ change, how, accuracy }) =>
    element("tr", {}, element("th", { scope: "row" }, change), element("td", {}, how), element("td", { class: "right" }, percent(accuracy))));
  const head = element("tr", {}, ...["pictures", "how they were changed", "right"].map((text) => element("th", { scope: "col" }, text)));
  return scrolling("Robustness table", element("table", {}, element("caption", {}, "How often it is right if the same pictures get worse", remark), element("thead", {}, head), element("tbody", {}, ...body)));
}

const scrolling = (label, table) => element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, table);

/** Headings, paragraphs, lists, tables, code: what a model card needs of Markdown. Raw HTML stays text. */
export function markdown(text) {
  const body = text.replace(/^---\n[\s\S]*?\n---\n/, "").trim();
  return body.split(/\n{2,}/).map(block).filter(Boolean);
}

function block(source) {
  const lines = source.split("\n");
  const heading = /^(#{1,4}) (.*)$/.exec(lines[0]);
  if (heading) return element(`h${Math.min(6, heading[1].length + 3)}`, {}, ...inline(heading[2]));
  if (lines.every((line) => line.startsWith("    "))) return element("pre", { tabindex: "0" }, lines.map((line) => line.slice(4)).join("\n"));
  if (lines[0].startsWith("|") && lines.length > 2) return table(lines);
  if (lines[0].startsWith("- ")) {
    const items = source.split(/\n?^- /m).slice(1);
    return element("ul", {}, ...items.map((item) => element("li", {}, ...inline(item.replace(/\n\s*/g, " ")))));
  }
  return element("p", {}, ...inline(lines.join(" ")));
}

function table(lines) {
  const cells = (line) => line.replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const names = cells(lines[0]);
  const head = names.some(Boolean) ? [element("thead", {}, element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, ...inline(name)))))] : [];
  const rows = lines.slice(2).map((line) => {
    const [first, ...rest] = cells(line);
    return element("tr", {}, element("th", { scope: "row" }, ...inline(first)), ...rest.map((cell) => element("td", {}, ...inline(cell))));
  });
  return scrolling(`Table: ${names.filter(Boolean)[0] ?? counted(rows.length, "row")}`, element("table", {}, ...head, element("tbody", {}, ...rows)));
}

function inline(text) {
  return text.split(/(`[^`]*`)/).map((piece) => (piece.startsWith("`") && piece.length > 1 ? element("code", {}, piece.slice(1, -1)) : piece.replace(/\*\*?([^*]+)\*\*?/g, "$1")));
}
