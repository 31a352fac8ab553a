// Where pictures are read: in this tab with one of the models of the page, or on the server that serves it.

import { byId, element } from "./dom.js";
import { ServerReader, Tab, TabReader } from "./readers.js";

const DEFAULT = "mini-int8";
const MOST_THREADS = 4;
const REMEMBERED = "mien-where";

let built = null; // built/models.json: the models of this page
let server = null; // the answer of GET v1/model
let tab = null;
let reader = null;
let isKeyDeclined = false;
const readers = new Map(); // by what is chosen: a model of this tab, or "server"
let changed = () => {};

export const currentReader = () => reader;

/** What is known of a reader's model: an entry of built/models.json, or the answer of GET v1/model. */
export function modelInfo({ place, name }) {
  return place === "server" ? server : built.models.find((model) => model.name === name);
}

/** Finds out what there is, fills the <select>, and calls `onChange(reader)` whenever another place is chosen. */
export async function openPlaces(select, onChange) {
  changed = onChange;
  built = await json("built/models.json");
  if (built) tab = new Tab(built, threads());
  server = built?.static ? null : await json("v1/model");
  if (!built) {
    const cause = "This installation lacks the parts that read pictures in the browser (make page builds them)";
    byId("not-built").hidden = false;
    byId("not-built").textContent = server
      ? `${cause}. Pictures are sent to the server at ${location.host}, which reads them and does not keep them.`
      : `${cause}, and no server answers. Build them, or start mien serve.`;
  }
  for (const { name, title } of built?.models ?? []) {
    select.append(element("option", { value: name }, `in this tab: ${title}`));
  }
  if (server) select.append(element("option", { value: "server" }, `on the server: ${server.name}`));
  const preferred = [remembered(), DEFAULT, "server"];
  const values = [...select.options].map(({ value }) => value);
  select.value = preferred.find((value) => values.includes(value)) ?? values[0] ?? "";
  select.disabled = values.length < 2;
  select.addEventListener("change", choosePlace);
}

/** Makes the reader of what is chosen, once: what it read is explained by the same one later. */
export function choosePlace() {
  const { value } = byId("where");
  if (!value) return;
  remembered(value);
  delete document.body.dataset.ready;
  if (!readers.has(value)) {
    readers.set(value, value === "server" ? new ServerReader(server, askForKey) : new TabReader(tab, value));
  }
  reader = readers.get(value);
  changed(reader);
}

/** The place that was chosen last, or keeps a new one; null if the browser was told to store nothing. */
function remembered(value) {
  try {
    if (value) sessionStorage.setItem(REMEMBERED, value);
    return sessionStorage.getItem(REMEMBERED);
  } catch {
    return null;
  }
}

/** Threads need a page that is isolated from other origins; `?threads=1` asks for fewer, as for measurements. */
function threads() {
  const asked = Number(new URLSearchParams(location.search).get("threads"));
  if (!self.crossOriginIsolated) return 1;
  return Math.min(asked >= 1 ? asked : MOST_THREADS, navigator.hardwareConcurrency || 1);
}

/** The key that the visitor types; empty if the dialog is closed without one, or was before for the same files. */
async function askForKey() {
  if (isKeyDeclined) return "";
  const dialog = byId("key-dialog");
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const key = dialog.returnValue === "use" ? byId("key").value.trim() : ""; // Escape uses nothing
      isKeyDeclined = !key;
      resolve(key);
    }, { once: true });
    if (dialog.open) return;
    byId("key").value = dialog.returnValue = "";
    dialog.showModal();
  });
}

/** Lets the next picture ask for a key again, since the visitor has asked for something new. */
export function forgetDeclinedKey() {
  isKeyDeclined = false;
}

/** JSON of an address of this page; null if there is none, or only a part of it arrives. */
async function json(address) {
  const answer = await fetch(address, { cache: "no-cache" }).catch(() => null);
  const isJson = answer?.ok && answer.headers.get("content-type")?.includes("json");
  return isJson ? answer.json().catch(() => null) : null;
}
