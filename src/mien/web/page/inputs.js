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
    const files = [...input.files];
    input.value = "";
    if (files.length) take(files.filter((file) => !isJunk(file)));
  });
}

/** Files that systems leave in folders: .DS_Store, Thumbs.db and other hidden ones. */
const isJunk = ({ name }) => name.startsWith(".") || name === "Thumbs.db";

/** Stands for a file or folder that the browser cannot open, so that it is named and the others are read. */
const unreadable = ({ name }) => Object.assign(new File([], name), { isUnreadable: true });

/** All files that were dropped, those in folders included, with `place`: the path from the folder that was dropped. */
async function dropped(transfer) {
  // The entries have to be taken before the first await: the list is emptied after the event.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  const files = [];
  for (const entry of entries) await collect(entry, files);
  return files;
}

async function collect(entry, files) {
  const add = (file) => files.push(Object.assign(file, { place: entry.fullPath.slice(1) }));
  if (entry.isFile) {
    if (!isJunk(entry)) add(await new Promise((resolve) => entry.file(resolve, () => resolve(unreadable(entry)))));
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const children = await new Promise((resolve) => reader.readEntries(resolve, () => resolve(null)));
    if (!children) add(unreadable(entry));
    if (!children?.length) return;
    for (const child of children.sort((first, second) => (first.name < second.name ? -1 : 1))) {
      await collect(child, files);
    }
  }
}
