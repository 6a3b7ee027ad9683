// node fetch.mjs URL PHOTO COUNT: COUNT photos as FormData and COUNT as a stream of raw bytes (chunked), by fetch (undici).
// Prints each label and how often it came.

import { readFile } from "node:fs/promises";

const [url, path, count] = process.argv.slice(2);
const photo = await readFile(path);
const labels = new Map();

async function ask(body, headers) {
  const answer = await fetch(url, { method: "POST", body, headers, duplex: "half" });
  const text = await answer.text();
  const label = answer.ok ? JSON.parse(text).prediction : `${answer.status} ${text}`;
  labels.set(label, (labels.get(label) ?? 0) + 1);
}

for (let i = 0; i < Number(count); i++) {
  const form = new FormData();
  form.append("image", new Blob([photo]), "a.png");
  await ask(form);
  await ask(new Blob([photo]).stream(), { "content-type": "image/png" });
}
for (const [label, times] of labels) console.log(`${label}\t${times}`);
