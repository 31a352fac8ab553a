// The page: takes files, has them read, and shows what was read.

import { accuracySentence, showModel } from "./about.js";
import { Camera } from "./cameras.js";
import { byId, download, element } from "./dom.js";
import { FaceList } from "./faces.js";
import { isTurnedWebp, kindOf, reasonAgainst } from "./files.js";
import { open as openFilm, readFilm, recordAt } from "./films.js";
import { connect, listen } from "./inputs.js";
import { clock, counted, sentence } from "./labels.js";
import { annotated, brokenRecord, csv, json, savedRecords } from "./results.js";
import { choosePlace, currentReader, forgetDeclinedKey, modelInfo, openPlaces } from "./places.js";
import { hasTruePixels } from "./reading/pixels.js";
import { Stage } from "./stage.js";
import { Timeline } from "./timeline.js";
import { Visit } from "./visit.js";

const stage = new Stage(byId("stage"), (index) => { mark(index); faceList.focus(index); });
const faceList = new FaceList(byId("faces"), { choose: mark, explain });
const timeline = new Timeline(byId("timeline"), (time) => { if (shown?.video) shown.video.currentTime = time; });
const visit = new Visit(byId("strip"), choose);

let shown = null; // the item that is on the stage
let awaited = null; // the item that goes there once it is read; null if something else was asked for meanwhile
let queue = Promise.resolve();
let filmReading = null; // an AbortController while a film is read
let camera = null;

// ---- taking files ----

function take(files) {
  if (!files.length) {
    byId("state").classList.remove("is-ready");
    byId("state").textContent = "That held no file: give photos, a film, or a folder of them.";
    return;
  }
  const items = files.map((file) => ({
    file, name: file.webkitRelativePath || file.place || file.name || "pasted picture", url: URL.createObjectURL(file),
    kind: "picture", records: [], error: null, isDone: false,
  }));
  for (const item of items) visit.add(item);
  stopCamera();
  forgetDeclinedKey();
  awaited = items[0] ?? null;
  byId("visit").hidden = false;
  showProgress();
  for (const item of items) queue = queue.then(() => read(item)).catch((error) => console.error(error));
}

const NO_READER = "nothing here reads pictures: neither this page nor a server; build the page, or start mien serve";

const isForgotten = (item) => !visit.items.includes(item);

async function read(item) {
  if (isForgotten(item)) return;
  try {
    const kind = await kindOf(item.file);
    const reason = reasonAgainst(kind);
    if (reason) throw new Error(reason);
    item.kind = kind === "film" ? "film" : "picture";
    if (!currentReader()) throw new Error(NO_READER);
    // What could not be loaded is tried again, and what was said of other files goes away.
    if (!byId("state").classList.contains("is-ready")) showState(currentReader());
    if (item.kind === "film") await readFilmItem(item);
    else await readPicture(item);
  } catch (error) {
    item.error = error.message;
    item.hint = remedy(error);
    if (!item.records.length) {
      item.records = [brokenRecord(item.name, item.error)];
      item.video = null;
    }
  }
  if (isForgotten(item)) return;
  item.isDone = true;
  visit.refresh(item);
  showProgress();
  if (item !== awaited && item !== shown) return;
  if (item === awaited) awaited = null;
  show(item);
}

/** How many files of the visit were read, as long as some wait: only these can be saved. */
const progress = () => (visit.done.length < visit.items.length ? `${visit.done.length} of ${visit.items.length}` : "");

function showProgress() {
  byId("visit-title").textContent = progress() ? `This visit: ${progress()} read` : "This visit";
}

async function readPicture(item) {
  const started = performance.now();
  item.reader = currentReader(); // another one may be chosen while this one reads
  await item.reader.check(item.file);
  if (item === awaited) present(item);
  const answer = await item.reader.read(item.file);
  performance.measure("mien-answer", { start: started });
  item.milliseconds = answer.milliseconds;
  const { width, height, faces, first_of_several } = answer;
  const status = faces.length ? "ok" : "no_face";
  const record = { input: item.name, status, error: null, width, height, frame: null, time_s: null, faces };
  item.records = [first_of_several ? { ...record, first_of_several } : record];
  item.media ??= await loadedImage(item);
  if (first_of_several && item.media) item.media = still(item.media, width, height);
  if (item.media) visit.draw(item, item.media, width, height);
}

/** The picture as an <img>; null if this browser cannot show it, or only on its side. */
async function loadedImage({ file, url }) {
  if (await isTurnedWebp(file).catch(() => true)) return null; // a file that is gone cannot be shown either
  const image = element("img", { alt: "" });
  image.src = url;
  return image.decode().then(() => image, () => null);
}

/** The first picture of an <img> that moves: the answer is of that one. */
function still(image, width, height) {
  const canvas = element("canvas", { width, height, "aria-hidden": "true" });
  canvas.getContext("2d").drawImage(image, 0, 0, width, height);
  return canvas;
}

/** Shows a picture before it is read, so that something happens at once. */
async function present(item) {
  const media = await loadedImage(item);
  if (!media || item.isDone || item !== awaited) return;
  stopCamera();
  item.media = media;
  shown = item;
  startResult(item.name, "Looking for faces…");
  stage.show(item.media, item.media.naturalWidth, item.media.naturalHeight);
  visit.mark(item);
}

// ---- films ----

async function readFilmItem(item) {
  const video = element("video", { muted: true, playsinline: true }); // no controls: reading jumps from moment to moment
  video.muted = true;
  await openFilm(video, item.url);
  if (isForgotten(item)) return;
  item.video = video;
  video.addEventListener("timeupdate", () => item === shown && item.video && showMoment(item));
  if (item === awaited) showReading(item);
  byId("film-tools").hidden = false;
  const { signal } = (filmReading = new AbortController());
  item.reader = currentReader();
  let readShare = (byId("progress").value = 0);
  try {
    const reading = readFilm(video, item.reader, item.name, thresholdOf(item.reader), signal);
    for await (const { record, share, duration } of reading) {
      if (isForgotten(item)) return;
      item.records.push(record);
      item.duration = duration;
      byId("progress").value = readShare = share;
      if (item.records.length === 1) visit.draw(item, video, video.videoWidth, video.videoHeight);
      if (item === shown) showFaces(item, record, null);
    }
  } finally {
    video.controls = true;
    if (filmReading?.signal === signal) endFilmReading(); // else it was forgotten, and another film may be read by now
  }
  if (!item.records.length) throw new Error("reading was stopped before its first picture");
  const first = item.records.find(({ faces }) => faces.length) ?? item.records[0];
  video.currentTime = first.time_s;
  if (signal.aborted && readShare < 1) throw new Error("it was stopped");
}

function endFilmReading() {
  filmReading = null;
  if (byId("film-tools").contains(document.activeElement)) byId("result-title").focus();
  byId("film-tools").hidden = true;
}

/** Shows a film while it is read. */
function showReading(item) {
  const { name, video } = item;
  stopCamera();
  shown = item;
  startResult(name, "Reading the film…");
  stage.show(video, video.videoWidth, video.videoHeight);
  visit.mark(item);
}

function showMoment(item) {
  const record = recordAt(item.records, item.video.currentTime);
  if (!record) return;
  timeline.at(item.video.currentTime, item.duration);
  if (item.isDone) showFaces(item, record, null); // before, the reading shows them
}

// ---- the camera ----

/** Opens the dialog before the camera, as soon as it is known where its pictures go. */
async function askForConsent() {
  await opened;
  if (!byId("consent").open) byId("consent").showModal();
}

async function startCamera() {
  byId("consent").close();
  stopCamera();
  shown = awaited = null;
  if (!currentReader()) return showProblem("The camera cannot be used", NO_READER);
  const video = element("video", { muted: true, playsinline: true, "aria-label": "The camera" });
  video.muted = true;
  const current = new Camera(video, () => loseCamera(current, "The camera has ended", "it was unplugged, or is no longer allowed; start it again"));
  camera = current;
  startResult("The camera", "Starting the camera…");
  try {
    await current.start();
    if (camera !== current) return;
    stage.show(video, video.videoWidth, video.videoHeight);
    video.addEventListener("resize", () => camera === current && stage.fit(video.videoWidth, video.videoHeight)); // a turned phone
    byId("camera-tools").hidden = false;
    byId("tools").hidden = true;
    readLive();
  } catch (error) {
    loseCamera(current, "The camera cannot be used", error.message);
  }
}

/** Ends a camera that cannot go on, unless something else was asked for meanwhile. */
function loseCamera(current, title, reason) {
  if (camera !== current) return;
  stopCamera();
  showProblem(title, reason);
}

async function readLive() {
  const current = camera;
  forgetDeclinedKey();
  byId("summary").textContent = "The camera runs; its pictures are read and not kept.";
  byId("live").setAttribute("aria-pressed", "true");
  try {
    await current.run(currentReader(), thresholdOf(currentReader()), ({ width, height, faces }, rate) => {
      stage.setFaces(faces, width, height);
      faceList.update(faces, current.video, { explainable: false });
      byId("rate").textContent = rate ? `${Math.round(rate)} pictures a second` : "";
      byId("rate").dataset.rate = rate.toFixed(2);
    });
  } catch (error) {
    loseCamera(current, "The camera cannot be read", error.message);
  }
}

function toggleLive() {
  const isOn = byId("live").getAttribute("aria-pressed") === "true";
  if (!isOn) return readLive();
  camera.pause();
  byId("live").setAttribute("aria-pressed", "false");
  byId("summary").textContent = "The camera runs; nothing is read.";
  byId("rate").textContent = "";
  stage.setFaces([], 1, 1);
  faceList.clear();
}

async function takePhoto() {
  const current = camera;
  const photo = await current.photo();
  if (camera === current) take([photo]);
}

function stopCamera() {
  if (!camera) return;
  camera.stop();
  camera = null;
  if (byId("camera-tools").contains(document.activeElement)) byId("use-camera").focus(); // what was pressed goes away
  byId("camera-tools").hidden = true;
  byId("rate").textContent = "";
  if (shown) return;
  byId("result").hidden = true;
  document.body.classList.toggle("has-result", visit.items.length > 0);
}

// ---- showing ----

function startResult(title, summary) {
  document.body.classList.add("has-result");
  byId("result").hidden = false;
  byId("result-title").textContent = title;
  byId("summary").textContent = summary;
  byId("rate").textContent = "";
  byId("problem").hidden = true;
  byId("result-body").hidden = false;
  byId("tools").hidden = true;
  faceList.clear();
  timeline.clear();
}

/** Shows an item that was chosen in the strip; one that waits, as soon as it is read. */
function choose(item) {
  awaited = item.isDone ? null : item;
  if (item.isDone) show(item);
  else if (item.video) showReading(item);
  else visit.mark(item);
}

/** Shows an item of the visit that was read. */
function show(item) {
  stopCamera();
  shown = item;
  visit.mark(awaited ?? item);
  if (item.error && !item.video) return showProblem(`${item.name} cannot be read`, item.error, item.hint);
  const [record] = item.records;
  startResult(item.name, summaryOf(item));
  byId("tools").hidden = !item.isDone;
  byId("save-picture").disabled = !(item.video ?? item.media) || !hasTruePixels(); // this browser cannot show it, or saves noise
  if (item.kind === "film") {
    stage.show(item.video, record.width, record.height);
    if (item.isDone) timeline.show(item.records, item.duration);
    showMoment(item);
  } else {
    stage.show(item.media, record.width, record.height);
    showFaces(item, record, item.media);
  }
}

function showFaces(item, record, source) {
  byId("result-body").classList.toggle("is-alone", item.isDone && !record.faces.length);
  stage.setFaces(record.faces, record.width, record.height);
  faceList.update(record.faces, source, { explainable: item.kind === "picture" });
}

function summaryOf({ kind, records, milliseconds, reader, error, duration }) {
  if (kind === "film") {
    const remark = error ? `; reading ended early: ${error}` : "";
    return `${clock(duration)} minutes, read at ${counted(records.length, "moment")}${remark}.`;
  }
  const place = reader.place === "tab" ? "in this tab" : "by the server";
  const time = Math.round(milliseconds.decode + milliseconds.read);
  const how = `read ${place} with ${reader.name} in ${time} ms`;
  const { faces, width, height, first_of_several } = records[0];
  const others = first_of_several ? " The file holds several pictures; only the first was read." : "";
  if (!faces.length) return `No face was found in ${width} × ${height} pixels. Faces that are turned away, covered, or smaller than 24 pixels may be missed.${others}`;
  const unsure = faces.filter(({ uncertain }) => uncertain).length;
  const remark = unsure ? `, ${unsure === faces.length ? (unsure === 1 ? "" : "all ") : `${unsure} `}not sure` : "";
  return `${counted(faces.length, "face")}${remark}; ${how}.${others}`;
}

function showProblem(title, reason, hint = "") {
  startResult(title, "");
  byId("result-body").hidden = true;
  const more = hint ? [element("p", { class: "small" }, hint)] : [];
  byId("problem").replaceChildren(element("p", { role: "alert" }, sentence(reason)), ...more);
  byId("problem").hidden = false;
}

/** What to do about a place that does not answer, or a picture that this browser cannot decode; "" for other errors. */
function remedy({ isOfServer, isOfTab, isOfPicture }) {
  const canRead = (place) => byId("where").querySelector(place) !== null;
  if (isOfServer && canRead(":not([value=server])")) return "This tab reads pictures, too: choose it at the top of the page.";
  if (isOfTab && canRead("[value=server]")) return "The server reads pictures, too: choose it at the top of the page.";
  if (!isOfPicture) return "";
  return currentReader()?.place === "tab" && canRead("[value=server]")
    ? "The server reads more kinds of pictures, such as TIFF and HEIC: choose the server at the top of the page."
    : "Choose another file, or convert this one to JPEG or PNG.";
}

function mark(index) {
  stage.mark(index);
  faceList.mark(index);
}

async function explain(index) {
  const item = shown;
  forgetDeclinedKey();
  return item.reader.explain({ item, index, face: item.records[0].faces[index] });
}

// ---- the model ----

/** As mien.recognition.engine.sure_from: a calibrated model without a threshold is never sure. */
function thresholdOf(reader) {
  const { threshold, stated_accuracy: stated } = modelInfo(reader);
  return threshold ?? (stated ? Infinity : null);
}

async function showPlace(reader) {
  const info = modelInfo(reader);
  const isHere = reader.place === "tab";
  byId("place-title").textContent = isHere ? "Pictures stay here" : "Pictures go to one server";
  byId("place-text").textContent = isHere
    ? "This page reads them itself, in this tab. They are sent nowhere and stored nowhere; close the tab, and they are forgotten."
    : `They are sent to ${location.host}, read there, and neither stored nor logged.`;
  byId("consent-place").replaceChildren(element("b", {}, isHere ? "Its pictures stay in this tab" : `Its pictures are sent to ${location.host}`), isHere ? " and are not recorded." : " and are not stored there.");
  byId("label-count").textContent = (info.labels?.length ?? 7) === 7 ? "seven" : info.labels.length;
  byId("accuracy-text").textContent = accuracySentence(info);
  await Promise.all([showModel(info), showState(reader)]);
}

/** Says whether a reader is ready, which may have to load its networks before. */
async function showState(reader) {
  const isHere = reader.place === "tab";
  byId("state").classList.remove("is-ready");
  byId("state").textContent = isHere ? "Loading the models…" : "";
  try {
    await reader.start();
    if (reader !== currentReader()) return;
    byId("state").textContent = isHere ? "Ready: this tab reads, nothing is sent." : `Ready: ${location.host} reads.`;
    byId("state").classList.add("is-ready");
    document.body.dataset.ready = `${reader.place} ${reader.name}`;
  } catch (error) {
    if (reader !== currentReader()) return;
    byId("state").textContent = sentence(`this tab cannot read pictures: ${error.message}`);
  }
}

// ---- wiring ----

/** The name of a file without its folders and its ending. */
const stemOf = (name) => name.replace(/^.*\//, "").replace(/\.[^.]*$/, "") || "mien";

function save(kind, records, name) {
  download(kind === "json" ? json(records) : csv(records), `${stemOf(name)}.${kind}`);
}

function saveAll(kind) {
  const part = progress().replaceAll(" ", "-");
  save(kind, visit.records, part ? `mien-${part}` : "mien");
}

async function savePicture() {
  const item = shown;
  const record = item.kind === "film" ? recordAt(item.records, item.video.currentTime) : item.records[0];
  const source = item.kind === "film" ? item.video : item.media;
  download(await annotated(source, record.width, record.height, record.faces), `${stemOf(item.name)}-faces.png`);
}

function forget() {
  filmReading?.abort();
  endFilmReading();
  stopCamera();
  visit.clear();
  queue = opened.catch(() => {}); // what comes next does not wait for an answer that nobody needs any longer
  shown = awaited = null;
  startResult("", ""); // nor does the page hold names and faces any longer
  stage.clear();
  byId("problem").replaceChildren();
  byId("visit").hidden = true;
  byId("result").hidden = true;
  document.body.classList.remove("has-result");
  byId("choose").focus();
}

const clicks = {
  choose: () => byId("files").click(),
  "choose-folder": () => byId("folder").click(),
  "use-camera": askForConsent,
  "cancel-camera": () => byId("consent").close(),
  "start-camera": startCamera,
  "take-photo": takePhoto,
  live: toggleLive,
  "stop-camera": stopCamera,
  "stop-film": () => filmReading?.abort(),
  "save-json": () => save("json", savedRecords(shown), shown.name),
  "save-csv": () => save("csv", savedRecords(shown), shown.name),
  "save-picture": savePicture,
  "save-all-json": () => saveAll("json"),
  "save-all-csv": () => saveAll("csv"),
  forget,
};

// Files that come before it is known who reads them wait for it.
const opened = openPlaces(byId("where"), (reader) => { stopCamera(); return showPlace(reader); }).then(choosePlace);
queue = opened.catch(() => {});
for (const [id, act] of Object.entries(clicks)) byId(id).addEventListener("click", act);
listen(take);
connect(byId("files"), take);
connect(byId("folder"), take);
addEventListener("pagehide", stopCamera);
await opened;
