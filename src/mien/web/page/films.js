// Reads a film at regular times. The browser decodes it; each picture goes to the reader like a photo.

import { Tracker } from "./tracking.js";

/** Pictures a second that are read, and how many at most: a longer film is read more coarsely. */
export const RATE = 5;
const MOST = 900;
/** Wait for a picture of a film: a busy machine, or a phone that still compiles the models, needs more than a few seconds. */
const PATIENCE_MS = 60000;
/** Between two looks for a picture, which may be there a moment after the last event that tells of it. */
const LOOK_MS = 200;
const UNPLAYABLE = "this browser cannot play it: it is damaged, or of a kind that browsers do not know; "
  + "convert it to MP4 (H.264) or WebM, or read it with mien predict";

/**
 * Reads a film and gives a record for each picture, in order.
 * @param video a <video> that has its metadata.
 * @param threshold of the model; null if it has none.
 */
export async function* readFilm(video, reader, name, threshold, signal) {
  const duration = await durationOf(video);
  const count = Math.max(1, Math.min(MOST, Math.ceil(duration * RATE)));
  const step = duration / count;
  const tracker = new Tracker(threshold);
  const stopped = new Promise((resolve) => { signal.addEventListener("abort", resolve); });
  const unlessStopped = (answer) => Promise.race([answer, stopped]);
  for (let frame = 0; frame < count && !signal.aborted; frame++) {
    const time = (frame + 0.5) * step; // in the middle: the first and the last picture may be missing
    await unlessStopped(seek(video, time));
    if (signal.aborted) return;
    const answer = await unlessStopped(bitmapOf(video, () => signal.aborted).then((picture) => reader.read(picture)));
    if (signal.aborted) return;
    const { width, height, faces } = answer;
    const followed = tracker.update(faces, time);
    const status = faces.length ? "ok" : "no_face";
    yield {
      record: { input: name, status, error: null, width, height, frame, time_s: time, faces: followed },
      share: (frame + 1) / count,
      duration,
    };
  }
}

/** Opens a film in a <video>; rejects with the reason if the browser cannot play it. */
export async function open(video, url) {
  video.src = url;
  video.load();
  await pictureOf(video, UNPLAYABLE);
  if (!video.videoWidth) throw new Error(UNPLAYABLE);
}

/** The length in seconds; recordings of browsers tell it only after a jump to their end. */
async function durationOf(video) {
  if (video.duration === Infinity) await seek(video, 1e7);
  return Number.isFinite(video.duration) ? video.duration : video.currentTime;
}

/** Goes to a time; resolves when the picture there can be read. */
function seek(video, time) {
  video.currentTime = time;
  return pictureOf(video, `its picture at ${time.toFixed(1)} s cannot be decoded`);
}

/** Waits until a film's picture can be read; rejects with a reason on an error of the film, or after a while. */
function pictureOf(video, reason) {
  return new Promise((resolve, reject) => {
    const heard = new AbortController();
    const settle = (answer) => {
      clearTimeout(limit);
      clearInterval(looks);
      heard.abort();
      answer();
    };
    const fail = () => settle(() => reject(new Error(reason)));
    const look = () => {
      if (!video.seeking && video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA) settle(resolve);
    };
    const limit = setTimeout(fail, PATIENCE_MS);
    const looks = setInterval(look, LOOK_MS);
    for (const event of ["loadeddata", "seeked", "canplay"]) video.addEventListener(event, look, { signal: heard.signal });
    video.addEventListener("error", fail, { signal: heard.signal });
  });
}

/**
 * The picture that a <video> shows. A browser may have it later than it says; rejects if there is none after a minute.
 * @param isOver whether nobody waits for it any more.
 */
export async function bitmapOf(video, isOver) {
  const end = performance.now() + PATIENCE_MS;
  while (true) {
    try {
      return await createImageBitmap(video);
    } catch (error) {
      if (error.name !== "InvalidStateError" || isOver() || performance.now() > end) throw error;
    }
    await new Promise((resolve) => { setTimeout(resolve, LOOK_MS); });
  }
}

/** The record that is nearest to a time; null if there is none. */
export function recordAt(records, time) {
  let best = null;
  for (const record of records) {
    if (!best || Math.abs(record.time_s - time) < Math.abs(best.time_s - time)) best = record;
  }
  return best;
}
