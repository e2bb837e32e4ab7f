"use strict";

const $ = (selector, root = document) => root.querySelector(selector);
const TYPES = { jpeg: "image/jpeg", png: "image/png", webp: "image/webp", tiff: "image/tiff", bmp: "image/bmp" };
const ENDINGS = { jpeg: [".jpg", ".jpeg", ".jpe", ".jfif"], png: [".png"], webp: [".webp"], tiff: [".tif", ".tiff"], bmp: [".bmp"] };
const AT_ONCE = 2;
const waiting = [];
let running = 0;

function say(text) { $("#status").textContent = text; }

function add(files) {
  const photos = [...files];
  if (!photos.length) return;
  for (const file of photos) {
    const card = $("#card").content.firstElementChild.cloneNode(true);
    $(".name", card).textContent = file.name;
    $(".slider", card).setAttribute("aria-label", `Share of the original shown, ${file.name}`);
    $(".before", card).alt = `${file.name}, original`;
    $(".after", card).alt = `${file.name}, restored`;
    const job = { file, card, urls: [] };
    wire(job);
    $("#results").prepend(card);
    enqueue(job);
  }
  say(photos.length === 1 ? `${photos[0].name} added` : `${photos.length} photos added`);
}

function wire(job) {
  const { card } = job;
  const stage = $(".stage", card), slider = $(".slider", card);
  const cut = () => {
    stage.style.setProperty("--cut", `${slider.value}%`);
    slider.setAttribute("aria-valuetext", `${slider.value} % original`);
  };
  const follow = (event) => {
    const box = stage.getBoundingClientRect();
    slider.value = Math.round(100 * Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)));
    cut();
  };
  slider.addEventListener("input", cut);
  stage.addEventListener("pointerdown", (event) => { stage.setPointerCapture(event.pointerId); follow(event); });
  stage.addEventListener("pointermove", (event) => { if (event.buttons) follow(event); });
  cut();
  $(".again", card).addEventListener("click", () => enqueue(job));
  $(".cancel", card).addEventListener("click", () => {
    const place = waiting.indexOf(job);
    if (place >= 0) { waiting.splice(place, 1); failed(job, "cancelled"); }
    if (job.request) job.request.abort();
  });
}

function enqueue(job) {
  const { card } = job;
  card.classList.remove("failed");
  $("progress", card).hidden = $(".cancel", card).hidden = false;
  $("progress", card).removeAttribute("value");
  $(".compare", card).hidden = $(".actions", card).hidden = true;
  $(".message", card).textContent = "Waiting";
  waiting.push(job);
  next();
}

function next() {
  while (running < AT_ONCE && waiting.length) {
    running += 1;
    restore(waiting.shift()).finally(() => { running -= 1; next(); });
  }
}

const base64 = (file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
  reader.onerror = () => reject(new Error("the file cannot be read"));
  reader.readAsDataURL(file);
});

function send(job, body) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const bar = $("progress", job.card), message = $(".message", job.card);
    job.request = request;
    request.open("POST", "gfpgan/prediction");
    request.setRequestHeader("Content-Type", "application/json");
    const token = $("#token").value;
    if (token) request.setRequestHeader("Authorization", `Bearer ${token}`);
    request.upload.onprogress = (event) => {
      if (event.lengthComputable) { bar.max = event.total; bar.value = event.loaded; }
      message.textContent = "Sending";
    };
    request.upload.onload = () => { bar.removeAttribute("value"); message.textContent = "Restoring"; };
    request.onload = () => {
      if (request.status === 401) $("#token-row").hidden = false;
      let answer = null;
      try { answer = JSON.parse(request.responseText); } catch { /* a proxy's page */ }
      resolve({ status: request.status, answer, after: Number(request.getResponseHeader("Retry-After")) || 2 });
    };
    request.onerror = () => reject(new Error("the service cannot be reached"));
    request.onabort = () => reject(new Error("cancelled"));
    request.send(body);
  });
}

async function restore(job) {
  try {
    const fidelity = $("#fidelity").value;
    const body = JSON.stringify({ key: ["image", "fidelity"], value: [await base64(job.file), fidelity] });
    let outcome;
    for (let attempt = 0; ; attempt += 1) {
      outcome = await send(job, body);
      if (![429, 503].includes(outcome.status) || attempt === 5) break;
      $(".message", job.card).textContent = "The service is busy; waiting";
      await new Promise((resolve) => setTimeout(resolve, 1000 * outcome.after));
    }
    const { status, answer } = outcome;
    if (!answer || answer.err_no !== 0) throw new Error((answer && answer.err_msg) || `the service answered ${status}`);
    await show(job, Object.fromEntries(answer.key.map((key, i) => [key, answer.value[i]])), fidelity);
  } catch (error) {
    failed(job, error.message);
  } finally {
    job.request = null;
  }
}

async function show(job, result, fidelity) {
  const { card, file } = job;
  const bytes = Uint8Array.from(atob(result.image), (character) => character.charCodeAt(0));
  const blob = new Blob([bytes], { type: TYPES[result.format] });
  job.urls.forEach(URL.revokeObjectURL);
  job.urls = [URL.createObjectURL(file), URL.createObjectURL(blob)];
  const [before, after] = job.urls;
  const faces = JSON.parse(result.faces);
  const alike = faces.map((face) => face.identity_similarity).filter((value) => value !== null);
  const words = faces.length === 0 ? "No face was found; the photo is unchanged"
    : `${faces.length} ${faces.length === 1 ? "face" : "faces"} restored at fidelity ${fidelity}`;
  const like = alike.length ? `, likeness ${alike.map((value) => value.toFixed(2)).join(", ")}` : "";
  $(".before", card).src = before;
  $(".after", card).src = after;
  const shown = await $(".after", card).decode().then(() => true, () => false); // no browser shows TIFF everywhere
  const link = $(".download", card);
  link.href = after;
  link.download = restoredName(file.name, result.format);
  link.setAttribute("aria-label", `Download ${link.download}`);
  $(".message", card).textContent = words + like + (shown ? "" : " (this browser cannot show this kind of file)");
  $(".compare", card).hidden = !shown;
  $(".actions", card).hidden = false;
  $("progress", card).hidden = $(".cancel", card).hidden = true;
  say(`${file.name}: ${words}`);
}

function failed(job, reason) {
  const { card } = job;
  card.classList.add("failed");
  $("progress", card).hidden = $(".cancel", card).hidden = true;
  $(".message", card).textContent = `Not restored: ${reason}`;
  $(".actions", card).hidden = false;
  if (!$(".download", card).hasAttribute("href")) $(".download", card).hidden = true;
  say(`${job.file.name}: not restored, ${reason}`);
}

function restoredName(name, format) {
  const dot = name.lastIndexOf(".");
  const stem = dot > 0 ? name.slice(0, dot) : name;
  const ending = dot > 0 ? name.slice(dot) : "";
  const known = ENDINGS[format] || [`.${format}`];
  return `${stem}_restored${known.includes(ending.toLowerCase()) ? ending : known[0]}`;
}

const drop = $("#drop");
$("#files").addEventListener("change", (event) => { add(event.target.files); event.target.value = ""; });
$("#fidelity").addEventListener("input", (event) => { $("#fidelity-value").textContent = Number(event.target.value).toFixed(1); });
for (const kind of ["dragenter", "dragover"]) {
  addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
for (const kind of ["dragleave", "drop"]) {
  addEventListener(kind, (event) => { event.preventDefault(); drop.classList.remove("over"); });
}
addEventListener("drop", (event) => add(event.dataTransfer.files));
