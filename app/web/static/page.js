// The page at `/`: sends a photo to the service that the page came from and shows what it answers.
// Text of the service is set as text, never as HTML, and error sentences are shown as they are.
"use strict";

const $ = (id) => document.getElementById(id);
const KEY = "food-vision-api-key"; // in sessionStorage: gone when the tab is closed
const STRANGE = "This does not look like what the model was trained on";
const WORDS = { cpu: "CPU", cuda: "CUDA", tensorrt: "TensorRT" };

let running = null; // AbortController of the request on its way; a newer photo cancels it
let previewUrl = null;
let captionsOnly = false; // the model has no labels: /caption instead of /predict

class ServiceError extends Error {
  constructor(sentence, status) {
    super(sentence);
    this.status = status;
  }
}

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** The JSON of an answer. Throws a ServiceError with the service's own sentence. */
async function ask(path, options = {}) {
  const key = $("key").value.trim();
  const headers = { Accept: "application/json", ...(key && { "X-Api-Key": key }) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError("The service cannot be reached. Is it running, and are you online?", 0);
  }
  const body = await answer.json().catch((error) => {
    if (error.name === "AbortError") throw error;
    return null;
  });
  if (!answer.ok || body === null) {
    // a proxy in between answers in its own words
    throw new ServiceError(body?.error ?? `The answer was ${answer.status} ${answer.statusText}, without a sentence.`, answer.status);
  }
  return body;
}

// -- the photo ------------------------------------------------------------------------------------------------------

function showPhoto(file) {
  if (previewUrl) URL.revokeObjectURL(previewUrl);
  previewUrl = URL.createObjectURL(file);
  const preview = $("preview");
  preview.onload = () => {
    preview.hidden = false;
    if (!running) bringIntoView($("label")); // the answer was faster, and the photo has pushed it down
  };
  preview.onerror = () => { preview.hidden = true; }; // HEIC, TIFF, or not an image: the service says which
  preview.alt = `The photo ${file.name}`;
  preview.src = previewUrl;
  $("invitation").textContent = "Drop or paste another one.";
  $("file").hidden = false;
  $("file").textContent = `${file.name || "pasted photo"}, ${size(file.size)}`;
}

function size(bytes) {
  if (bytes < 1000) return `${bytes} bytes`;
  return bytes < 1e6 ? `${Math.round(bytes / 1000)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

async function send(file) {
  running?.abort();
  const mine = (running = new AbortController());
  showPhoto(file);
  begin();
  const form = new FormData();
  form.append("image", file, file.name || "photo");
  const started = performance.now();
  try {
    const path = captionsOnly ? "caption" : "predict?top_k=5";
    const answer = await ask(path, { method: "POST", body: form, signal: mine.signal });
    showAnswer(answer, performance.now() - started);
  } catch (error) {
    if (error.name === "AbortError") return; // a newer photo is on its way
    showError(error);
  } finally {
    if (running === mine) running = null;
  }
}

// -- what came of it ------------------------------------------------------------------------------------------------

function begin() {
  $("outcome").hidden = false;
  $("error").hidden = true;
  $("status").className = "";
  $("status").textContent = "Looking at the photo …";
  $("result").setAttribute("aria-busy", "true");
}

function showAnswer(answer, roundTrip) {
  const unsure = answer.abstained ?? null; // then nothing may look as if it were the answer
  const strange = unsure?.reason === "unfamiliar";
  const named = strange ? STRANGE : unsure ? "Not sure" : (answer.prediction ?? "No label of this model");
  const familiar = familiarity(answer);
  // A photo may be strange and named all the same, where the service only marks it.
  const why = strange ? "" : [unsure?.message, answer.unfamiliar && `${STRANGE}.`].filter(Boolean).join(" ");
  const said = unsure ? `${named}. ${strange ? familiar : why}` : `${named}, ${percent(answer.confidence)}${why && `. ${why}`}`;
  $("status").className = "hidden"; // read aloud only: the eye has the big line
  $("status").textContent = answer.top ? said : answer.caption;
  $("result").hidden = false;
  $("result").removeAttribute("aria-busy");
  $("label").textContent = named;
  $("label").classList.toggle("sentence", strange);
  $("unsure").hidden = !why;
  $("unsure").textContent = why;
  $("familiarity").hidden = !familiar;
  $("familiarity").textContent = familiar;
  $("top-heading").textContent = strange ? "Nearest guesses" : "Best labels";
  $("top").classList.toggle("guesses", strange);
  $("caption-part").hidden = unsure !== null; // it names the best label
  $("caption").textContent = answer.raw_output ?? answer.caption;
  $("top-part").hidden = !answer.top;
  $("top").replaceChildren(...(answer.top ?? []).map(bar));
  $("times").replaceChildren(
    ...Object.entries(answer.timings_ms).map(([stage, ms]) => time(stage, ms)),
    time("round trip", roundTrip),
  );
  bringIntoView($("label"));
}

function showError(error) {
  $("status").textContent = "";
  $("result").removeAttribute("aria-busy");
  $("result").hidden = true;
  $("error").hidden = false;
  $("error").textContent = error.message;
  bringIntoView($("error"));
  if (error.status === 401 || error.status === 403) askForKey();
}

/** On a phone the outcome is below the photo. */
function bringIntoView(shown) {
  if (shown.getBoundingClientRect().bottom > window.innerHeight) shown.scrollIntoView({ block: "center" });
}

function askForKey() {
  $("key-part").open = true;
  $("key").focus();
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

/** A setting, which must not be rounded to another: 0.0005 is 0.05 %, not 0.1 %. */
function line(share) {
  return `${Number((100 * share).toPrecision(6))} %`;
}

/** How familiar the photo is, in words; empty where the service does not tell. */
function familiarity({ familiarity: share, unfamiliar }) {
  if (share == null) return "";
  if (share === 0) return "Less familiar than every training photo.";
  const digits = (100 * share).toPrecision(share > 0.99 ? 4 : 2); // 0.23, 62, 99.98
  return `More familiar than ${unfamiliar ? "only " : ""}${Number(digits)} % of the training photos.`;
}

function bar(candidate) {
  const row = element("li");
  const track = element("div", "track");
  const fill = track.appendChild(element("div", "fill"));
  track.setAttribute("aria-hidden", "true"); // the percentage says the same
  row.append(element("span", "name", candidate.prediction), element("span", "share", percent(candidate.confidence)), track);
  requestAnimationFrame(() => { fill.style.width = `${100 * candidate.confidence}%`; });
  return row;
}

function time(stage, ms) {
  const row = element("li");
  row.append(element("span", "", `${stage} `), element("b", "", `${ms < 100 ? ms.toFixed(1) : Math.round(ms)} ms`));
  return row;
}

// -- the model ------------------------------------------------------------------------------------------------------

async function showInfo() {
  try {
    const info = await ask("info");
    captionsOnly = info.labels === 0;
    const rows = {
      Name: info.model.name,
      Version: info.model.version,
      Provider: WORDS[info.provider] ?? info.provider ?? "none yet",
      "Image tower": info.tower?.name,
      Precision: info.precision,
      Labels: captionsOnly ? "none: captions only" : info.labels,
      "Abstains below": info.abstain_below ? line(info.abstain_below) : null,
      "Unfamiliar below": info.familiarity && info.familiarity.unfamiliar !== "off" ? line(info.familiarity.below) : null,
      State: info.state,
    };
    $("info").replaceChildren(...Object.entries(rows).filter(([, value]) => value != null).map(([name, value]) => {
      const row = element("div");
      row.append(element("dt", "", name), element("dd", "", String(value)));
      return row;
    }));
    $("info").hidden = false;
    $("info-error").hidden = true;
    $("labels-part").hidden = captionsOnly;
    $("demonstration").hidden = $("example").hidden = !info.demonstration;
    if (info.state === "starting") setTimeout(showInfo, 1000);
  } catch (error) {
    $("info").hidden = $("labels-part").hidden = true;
    $("info-error").hidden = false;
    $("info-error").textContent = error.message;
    if (error.status === 401 || error.status === 403) $("key-part").open = true;
  }
}

/** With the key, which a link could not send. */
async function showLabels() {
  try {
    const { labels } = await ask("labels");
    $("labels").replaceChildren(...labels.map((label) => element("li", "", label.display)));
    $("labels-error").hidden = true;
  } catch (error) {
    $("labels").replaceChildren();
    $("labels-error").hidden = false;
    $("labels-error").textContent = error.message;
  }
}

$("labels-part").addEventListener("toggle", () => {
  if ($("labels-part").open) showLabels();
});

// -- the ways in ----------------------------------------------------------------------------------------------------

for (const id of ["pick", "camera"]) {
  $(id).addEventListener("change", () => {
    const file = $(id).files[0];
    if (file) send(file);
    $(id).value = ""; // so that the same file can be picked again
  });
}

$("example").addEventListener("click", async () => {
  running?.abort();
  const mine = (running = new AbortController()); // a photo that is picked meanwhile is the newer wish
  try {
    const answer = await fetch("static/example.png", { signal: mine.signal });
    if (!answer.ok) throw new Error();
    send(new File([await answer.blob()], "example.png", { type: "image/png" }));
  } catch {
    if (running !== mine) return;
    running = null;
    begin();
    showError(new ServiceError("The drawn picture cannot be fetched. Is the service running?", 0));
  }
});

document.addEventListener("paste", (event) => {
  const file = event.clipboardData?.files[0];
  if (!file) return; // text, perhaps for the key field
  event.preventDefault();
  send(file);
});

let inside = 0; // drags enter a child before they leave its parent
const over = (change) => { inside = Math.max(0, inside + change); $("drop").classList.toggle("over", inside > 0); };
document.addEventListener("dragenter", () => over(1));
document.addEventListener("dragleave", () => over(-1));
document.addEventListener("dragover", (event) => event.preventDefault()); // or the browser opens the photo itself
document.addEventListener("drop", (event) => {
  event.preventDefault();
  over(-inside);
  const file = event.dataTransfer?.files[0];
  if (file) send(file);
});

try {
  $("key").value = sessionStorage.getItem(KEY) ?? "";
} catch { /* storage is switched off: the key lives in the field alone */ }
$("key").addEventListener("change", () => {
  try {
    sessionStorage.setItem(KEY, $("key").value.trim());
  } catch { /* as above */ }
  showInfo();
});

showInfo();
