"use strict";
// Sends chosen or dropped files one by one, has them indexed, and shows how far that is.
const form = document.getElementById("upload");
const drop = document.getElementById("drop");
const bar = form.querySelector("progress");
const said = form.querySelector("[role=status]");
const [send, cancel] = form.querySelectorAll("button");
const token = form.elements.token.value;
const inputs = form.querySelectorAll("input[type=file]");
let upload = "", dropped = [], stopped = false;

form.hidden = false;

async function ask(method, path, body) {
  const answer = await fetch(form.dataset.base + path, { method, body, headers: { "X-Token": token } });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

function say(text, value, most) {
  said.textContent = text;
  bar.hidden = false;
  if (most) { bar.max = most; bar.value = value; } else bar.removeAttribute("value");
}

// The files of a dropped folder, each with its path.
async function walk(entry, path) {
  if (entry.isFile) {
    const file = await new Promise((yes, no) => entry.file(yes, no));
    return [[path + entry.name, file]];
  }
  const reader = entry.createReader(), found = [];
  for (;;) {
    const some = await new Promise((yes, no) => reader.readEntries(yes, no));
    if (!some.length) return found;
    for (const one of some) found.push(...await walk(one, path + entry.name + "/"));
  }
}

function chosen() {
  const picked = [...inputs].flatMap((input) => [...input.files]);
  return [...dropped, ...picked.map((file) => [file.webkitRelativePath || file.name, file])]
    .filter(([path]) => !path.split("/").some((part) => part.startsWith(".")));
}

function tellChosen() {
  const count = chosen().length;
  send.disabled = !count;
  said.textContent = count ? `${count.toLocaleString()} file${count > 1 ? "s" : ""} chosen` : "";
  bar.hidden = true;
}

async function sendAll(files) {
  const wait = ["receiving", "reading", "adding", "learning"];
  upload = (await ask("POST", "/uploads")).upload;
  for (const [number, [path, file]] of files.entries()) {
    if (stopped) return ask("DELETE", `/uploads/${upload}`);
    say(`Sending ${path}`, number, files.length);
    await ask("PUT", `/uploads/${upload}?path=${encodeURIComponent(path)}`, file);
  }
  const replace = form.elements.replace.checked ? "?replace=1" : "";
  let now = await ask("POST", `/uploads/${upload}${replace}`);
  while (wait.includes(now.state)) {
    const seconds = now.seconds ? `, ${Math.round(now.seconds)} s` : "";
    if (now.state === "reading") say(`Reading files${seconds}`, now.read, now.files);
    else if (now.state === "adding") say(`Adding ${now.documents.toLocaleString()} documents${seconds}`);
    else say("Learning from the texts; searches wait until then");
    await new Promise((next) => setTimeout(next, 300));
    now = await ask("GET", `/uploads/${upload}`);
  }
  return now;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  stopped = false;
  send.disabled = true;
  cancel.hidden = false;
  cancel.focus();
  try {
    const now = await sendAll(chosen());
    if (now.state === "failed") throw new Error(now.error);
    if (now.state === "done") {
      const left = now.report.length ? `\n${now.report.join("\n")}` : "";
      say(`Indexed ${now.documents.toLocaleString()} documents; ` +
          `${now.total.toLocaleString()} are in the index now.${left}`, 1, 1);
      document.getElementById("empty")?.remove();
      document.getElementById("count").textContent =
        `Search ${now.total.toLocaleString()} documents`;
    } else say("Cancelled: nothing was added.", 0, 1);
    dropped = [];
    for (const input of inputs) input.value = "";
  } catch (error) {
    say(`Nothing was added: ${error.message}`, 0, 1);
    send.disabled = false;
  }
  cancel.hidden = true;
  said.focus();
});

cancel.addEventListener("click", () => {
  stopped = true;
  ask("DELETE", `/uploads/${upload}`).catch(() => {});
});
for (const input of inputs) input.addEventListener("change", tellChosen);
for (const kind of ["dragenter", "dragover"])
  drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", async (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  // Entries know folders; both must be asked for before the first wait.
  const items = [...event.dataTransfer.items].map((item) =>
    [item.webkitGetAsEntry(), item.getAsFile()]);
  dropped = (await Promise.all(items.map(([entry, file]) =>
    entry ? walk(entry, "") : file ? [[file.name, file]] : []))).flat();
  tellChosen();
});
