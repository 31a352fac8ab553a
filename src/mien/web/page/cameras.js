// Runs the camera. Its pictures are read one after the other, as fast as the reader answers; none is kept.

import { bitmapOf } from "./films.js";
import { Tracker } from "./tracking.js";

const FRAME_MS = 30;

export class Camera {
  /** @param {() => void} onLost called if the camera ends by itself: unplugged, or no longer allowed. */
  constructor(video, onLost) {
    this.video = video;
    this.onLost = onLost;
    this.times = [];
    this.turn = 0; // counts the runs, so that a new one ends the one before
    this.stopped = false;
  }

  /** Asks for the camera and shows it, unless it was stopped meanwhile; rejects with a reason in plain words. */
  async start() {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error("the camera needs a secure page: open it at localhost or by https");
    }
    try {
      const wanted = { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: "user" };
      this.stream = await navigator.mediaDevices.getUserMedia({ video: wanted, audio: false });
    } catch (error) {
      throw new Error(REASONS[error.name] ?? `the camera cannot be opened (${error.message})`);
    }
    if (this.stopped) return this.stop(); // while the browser asked the person
    for (const track of this.stream.getTracks()) track.addEventListener("ended", this.onLost);
    this.video.srcObject = this.stream;
    await this.video.play();
  }

  /** Reads until it is paused or stopped; calls `show({width, height, faces}, rate)` after each picture. */
  async run(reader, threshold, show) {
    const tracker = new Tracker(threshold);
    const started = performance.now();
    const turn = ++this.turn;
    while (this.turn === turn) {
      const asked = performance.now();
      const bitmap = await bitmapOf(this.video, () => this.turn !== turn);
      const { width, height, faces } = await reader.read(bitmap, { live: true });
      if (this.turn !== turn) return;
      const now = performance.now();
      show({ width, height, faces: tracker.update(faces, (now - started) / 1000) }, this.rate(now));
      if (now - asked < FRAME_MS) await new Promise(requestAnimationFrame); // else the camera has a new picture already
    }
  }

  /** Pictures a second over the last three seconds. */
  rate(now) {
    this.times = [...this.times.filter((time) => time > now - 3000), now];
    const span = (now - this.times[0]) / 1000;
    return span > 0 ? (this.times.length - 1) / span : 0;
  }

  /** The present picture as a file. */
  async photo() {
    const canvas = new OffscreenCanvas(this.video.videoWidth, this.video.videoHeight);
    canvas.getContext("2d").drawImage(this.video, 0, 0);
    const time = new Date().toTimeString().slice(0, 8).replaceAll(":", "-");
    return new File([await canvas.convertToBlob({ type: "image/png" })], `camera ${time}.png`, { type: "image/png" });
  }

  pause() {
    this.turn++;
  }

  stop() {
    this.stopped = true;
    this.pause();
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = null;
    this.video.srcObject = null;
  }
}

const REASONS = {
  NotAllowedError: "the camera was not allowed; allow it in the browser's address bar, or choose a photo",
  NotFoundError: "there is no camera; choose a photo instead",
  OverconstrainedError: "there is no camera; choose a photo instead", // in WebKit: no other constraint must hold
  NotReadableError: "the camera is used by another program; close that one first",
};
