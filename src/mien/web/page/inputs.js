// Where files come from: dropped, pasted, chosen, a folder.

/** Calls `take(files)` for files that are dropped anywhere on the page or pasted. */
export function listen(take) {
  let depth = 0;
  const mark = (change) => {
    depth = Math.max(0, depth + change);
    document.body.classList.toggle("is-dropping", depth > 0);
  };
  const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => holdsFiles(event) && mark(1));
  addEventListener("dragleave", (event) => holdsFiles(event) && mark(-1));
  addEventListener("dragover", (event) => holdsFiles(event) && event.preventDefault());
  addEventListener("drop", async (event) => {
    event.preventDefault();
    mark(-depth);
    take(await dropped(event.dataTransfer));
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    take(files);
  });
}

/** Connects an <input type="file">, which may be chosen from again and again. */
export function connect(input, take) {
  input.addEventListener("change", () => {
    const files = [...input.files].filter((file) => !isJunk(file));
    input.value = "";
    if (files.length) take(files);
  });
}

/** Files that systems leave in folders: .DS_Store, Thumbs.db and other hidden ones. */
const isJunk = ({ name }) => name.startsWith(".") || name === "Thumbs.db";

/** All files that were dropped, those in folders included. */
async function dropped(transfer) {
  // The entries have to be taken before the first await: the list is emptied after the event.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  const files = [];
  for (const entry of entries) await collect(entry, files);
  return files;
}

async function collect(entry, files) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    if (!isJunk(file)) files.push(file);
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const children = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!children.length) return;
    for (const child of children.sort((first, second) => (first.name < second.name ? -1 : 1))) {
      await collect(child, files);
    }
  }
}
