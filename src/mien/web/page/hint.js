// Runs without modules: says what to do where modules cannot load, as from a file on the disk.
if (location.protocol === "file:") {
  document.getElementById("not-served").hidden = false;
}
