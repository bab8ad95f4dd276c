"use strict";
// The page of `zsseg app`: sends the image and the names as typed, shows what comes back.

const part = (id) => document.getElementById(id);
const off = new Set();
let image = null; // a File, or a Blob of the camera
let found = null; // the last answer
let asking = null; // aborts the question under way

async function ask() {
  asking?.abort();
  const mine = (asking = new AbortController());
  document.body.classList.add("busy");
  const fields = new URLSearchParams({
    run: part("run").value,
    names: part("names").value,
    off: JSON.stringify([...off]),
    unsure: part("unsure").value,
    file: image?.name ?? "camera.jpg",
  });
  let answer;
  try {
    const body = image ?? new Blob();
    const got = await fetch(`/answer?${fields}`, { method: "POST", body, signal: mine.signal });
    answer = await got.json();
  } catch (error) {
    if (mine.signal.aborted) return;
    answer = { error: "zsseg app does not answer: was it ended in its terminal?" };
  }
  if (mine.signal.aborted) return;
  document.body.classList.remove("busy");
  part("error").hidden = !answer.error;
  part("error").textContent = answer.error ?? "";
  if (answer.error) return;
  found = answer;
  show();
}

function percent(share) {
  return share > 0 && share < 0.01 ? "<1 %" : `${Math.round(100 * share)} %`;
}

function show() {
  part("chips").replaceChildren(...found.names.map(chip));
  if (!found.overlay) return;
  const view = document.querySelector("input[name=view]:checked").value;
  part("views").hidden = false;
  const sure = `mean confidence ${percent(found.mean_confidence)}`;
  const unsure = found.unsure ? `, ${percent(found.unsure)} of the pixels unsure` : "";
  const size = `${found.size[0]} × ${found.size[1]} pixels`;
  const time = `${Math.round(found.milliseconds)} ms`;
  figure("student", found[view], `Student: ${time}, ${sure}${unsure}; ${size}`);
  part("teacher").hidden = !found.teacher;
  if (found.teacher) {
    const text = `Teacher (CLIP alone): ${Math.round(found.teacher.milliseconds)} ms`;
    figure("teacher", found.teacher.overlay, text);
  }
}

function figure(id, source, text) {
  part(id).hidden = false;
  part(id).querySelector("img").src = source;
  part(id).querySelector("figcaption").textContent = text;
}

function chip(each) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "chip";
  button.setAttribute("aria-pressed", String(each.on));
  const key = document.createElement("span");
  key.className = "key";
  key.style.background = each.colour ?? "transparent";
  const share = document.createElement("span");
  share.className = "share";
  share.textContent = each.on && found.overlay ? ` ${percent(each.share)}` : "";
  button.append(key, each.name.split("|").join(" / "), share);
  button.addEventListener("click", () => {
    if (!off.delete(each.name)) off.add(each.name);
    ask();
  });
  return button;
}

function use(file) {
  if (!file) return;
  image = file;
  ask();
}

function ownNames() {
  part("names").value = part("run").selectedOptions[0].dataset.names;
  off.clear();
}

async function openCamera() {
  try {
    part("video").srcObject = await navigator.mediaDevices.getUserMedia({ video: true });
    part("live").hidden = false;
    part("error").hidden = true;
  } catch (error) {
    part("error").hidden = false;
    part("error").textContent = `The camera cannot be used: ${error.message}. Choose a file.`;
  }
}

function take() {
  const video = part("video");
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  video.srcObject.getTracks().forEach((track) => track.stop());
  part("live").hidden = true;
  part("take").disabled = true;
  canvas.toBlob(use, "image/jpeg", 0.92);
}

// A newly chosen run keeps what a person has typed, and changes its own names to those of the run.
let shownRun = part("run").selectedOptions[0];
part("run").addEventListener("change", () => {
  if (part("names").value === shownRun.dataset.names) ownNames();
  shownRun = part("run").selectedOptions[0];
  ask();
});
part("file").addEventListener("change", () => use(part("file").files[0]));
part("names").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  ask();
});
part("ask").addEventListener("click", ask);
part("own").addEventListener("click", () => {
  ownNames();
  ask();
});
part("unsure").addEventListener("input", () => {
  part("least").textContent = percent(Number(part("unsure").value));
});
part("unsure").addEventListener("change", ask);
part("views").addEventListener("change", show);
part("camera").addEventListener("click", openCamera);
part("take").addEventListener("click", take);
part("video").addEventListener("loadeddata", () => {
  part("take").disabled = false;
});
for (const kind of ["dragover", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    part("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") use(event.dataTransfer.files[0]);
  });
}
document.addEventListener("dragleave", () => part("drop").classList.remove("over"));
ask();
