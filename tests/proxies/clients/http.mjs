// node http.mjs URL PHOTO COUNT: COUNT photos as multipart and COUNT as raw bytes, by node:http over one connection.
// Prints each label, how often it came, and the connections made.

import { readFile } from "node:fs/promises";
import { Agent, request } from "node:http";

const [url, path, count] = process.argv.slice(2);
const photo = await readFile(path);
const agent = new Agent({ keepAlive: true, maxSockets: 1 });
const labels = new Map();
let connections = 0;

function ask(body, type) {
  return new Promise((resolve, reject) => {
    const asked = request(url, { method: "POST", agent, headers: { "content-type": type } }, async (answer) => {
      let text = "";
      for await (const piece of answer) text += piece;
      const label = answer.statusCode === 200 ? JSON.parse(text).prediction : `${answer.statusCode} ${text}`;
      labels.set(label, (labels.get(label) ?? 0) + 1);
      resolve();
    });
    asked.on("socket", () => (connections += asked.reusedSocket ? 0 : 1));
    asked.on("error", reject);
    asked.end(body);
  });
}

const head = '--cut\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n';
const form = Buffer.concat([Buffer.from(head), photo, Buffer.from("\r\n--cut--\r\n")]);
for (let i = 0; i < Number(count); i++) {
  await ask(form, "multipart/form-data; boundary=cut");
  await ask(photo, "image/png");
}
agent.destroy();
for (const [label, times] of labels) console.log(`${label}\t${times}`);
console.log(`connections\t${connections}`);
