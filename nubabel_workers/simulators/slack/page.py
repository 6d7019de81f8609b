"""The page of the local Slack: workspaces, channels, threads, and a box to write in. Outside text is only ever text."""

from typing import Final

PAGE: Final = r"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Local Slack</title>
<style>
  :root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
  body { margin: 0; display: grid; grid-template-columns: 13rem 1fr; height: 100vh; }
  nav { background: #3f0e40; color: #fff; padding: 1rem; overflow-y: auto; }
  nav h1 { font-size: 1rem; margin: 0 0 1rem; }
  nav h2 { font-size: .8rem; margin: 1rem 0 .3rem; opacity: .8; }
  nav button { display: block; width: 100%; text-align: left; padding: .25rem .5rem; border: 0; border-radius: 4px;
    background: none; color: inherit; font: inherit; cursor: pointer; }
  nav button[aria-current=true] { background: #1164a3; }
  main { display: flex; flex-direction: column; min-width: 0; height: 100vh; }
  #messages { flex: 1; overflow-y: auto; padding: 1rem; }
  article { padding: .3rem 0; }
  article.reply { margin-left: 2.5rem; }
  article header { font-weight: 600; }
  article header span { font-weight: 400; opacity: .6; margin-left: .5rem; font-size: .85em; }
  article p { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
  article button { border: 0; background: none; color: #1164a3; cursor: pointer; padding: 0; font: inherit; }
  .bot { color: #7c3085; }
  .deleted p { opacity: .5; font-style: italic; }
  .reaction { display: inline-block; border: 1px solid #8886; border-radius: 1rem; padding: 0 .5rem; font-size: .85em; }
  form { display: flex; gap: .5rem; padding: 1rem; border-top: 1px solid #8884; align-items: center; }
  form input[name=text] { flex: 1; }
  form input[name=file] { width: 12rem; }
  input, form button { font: inherit; padding: .4rem .6rem; }
  #where { opacity: .7; font-size: .85em; }
</style>
</head>
<body>
<nav aria-label="Channels"><h1>Local Slack</h1><div id="channels"></div></nav>
<main>
  <div id="messages" aria-live="polite"></div>
  <form id="say">
    <input name="user" value="U0ALICE" size="9" aria-label="Who writes">
    <input name="channel" size="9" aria-label="Channel id: C..., G..., D... (direct message)">
    <input name="text" placeholder="@nubabel ..." autocomplete="off" required aria-label="Message">
    <input name="file" type="file" aria-label="Attach a file">
    <button>Send</button>
    <span id="where"></span>
  </form>
</main>
<script>
"use strict";
const byId = (id) => document.getElementById(id);
const messages = new Map();            // "team channel ts" -> message
let teams = [], current = null, thread = null;

const element = (tag, text, className) => {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
};
const keyOf = (message) => [message.team, message.channel, message.ts].join(" ");

function keep(message) {
  if (message.gone) messages.delete(keyOf(message));
  else messages.set(keyOf(message), message);
}

function channelsOf(team) {
  const names = new Set(["C0GENERAL", "D0ALICE"]);
  for (const message of messages.values()) if (message.team === team) names.add(message.channel);
  return [...names].sort();
}

function showChannels() {
  const list = byId("channels");
  list.replaceChildren();
  for (const team of teams) {
    list.append(element("h2", team.name + (team.revoked ? " (app removed)" : "")));
    for (const channel of channelsOf(team.team_id)) {
      const button = element("button", (channel[0] === "D" ? "" : "# ") + channel);
      button.setAttribute("aria-current", String(current.team === team.team_id && current.channel === channel));
      button.onclick = () => select(team.team_id, channel);
      list.append(button);
    }
  }
}

function showMessages() {
  const box = byId("messages");
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 80;
  const here = [...messages.values()].filter((m) => m.team === current.team && m.channel === current.channel);
  here.sort((a, b) => a.thread_ts === b.thread_ts ? (a.ts < b.ts ? -1 : 1) : (a.thread_ts < b.thread_ts ? -1 : 1));
  box.replaceChildren(...here.map(article));
  if (atEnd) box.scrollTop = box.scrollHeight;
  byId("where").textContent = thread ? "in a thread" : "new message";
}

function article(message) {
  const node = element("article", undefined, (message.ts === message.thread_ts ? "" : "reply ") +
    (message.deleted ? "deleted" : ""));
  const header = element("header", message.is_bot ? "nubabel" : message.user, message.is_bot ? "bot" : "");
  const at = new Date(Number(message.ts.split(".")[0]) * 1000).toLocaleTimeString();
  header.append(element("span", at + (message.edited && !message.is_bot ? " (edited)" : "")));
  node.append(header, element("p", message.text));
  for (const file of message.files) node.append(element("p", "attached: " + file));
  for (const name of message.reactions) node.append(element("span", ":" + name + ":", "reaction"));
  for (const one of message.buttons) {
    const button = element("button", one.label);
    button.onclick = () => press(message, one.action_id);
    node.append(button);
  }
  addAction(node, "Reply in thread", () => {
    thread = message.thread_ts; showMessages(); byId("say").elements.text.focus();
  });
  if (!message.is_bot && !message.deleted) {
    addAction(node, "Edit", () => edit(message));
    addAction(node, "Delete", () => post("/_sim/delete", placeOf(message)));
  }
  return node;
}

function addAction(node, label, act) {
  const button = element("button", label);
  button.onclick = act;
  node.append(element("span", " "), button);
}

const placeOf = (message) => ({team: message.team, channel: message.channel, ts: message.ts});

function edit(message) {
  const text = prompt("The message as it is to be:", message.text);
  if (text) post("/_sim/edit", {...placeOf(message), text});
}

const press = (message, action_id) =>
  post("/_sim/press", {...placeOf(message), action_id, user: byId("say").elements.user.value});

/** Whether it was taken; if not, the page says why. */
async function post(path, body) {
  const answer = await fetch(path, {
    method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)});
  if (!answer.ok) byId("where").textContent = (await answer.json()).error;
  return answer.ok;
}

const attachment = (file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve({name: file.name, mimetype: file.type || "application/octet-stream",
    content_base64: reader.result.split(",")[1] || ""});
  reader.onerror = () => reject(reader.error);
  reader.readAsDataURL(file);
});

function select(team, channel) {
  current = {team, channel};
  thread = null;
  byId("say").elements.channel.value = channel;
  showChannels();
  showMessages();
}

let drawing = false;
function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => { drawing = false; showChannels(); showMessages(); });
}

byId("say").onsubmit = async (event) => {
  event.preventDefault();
  const fields = event.target.elements;
  const channel = fields.channel.value.trim() || current.channel;
  const body = {team: current.team, channel, user: fields.user.value, text: fields.text.value};
  if (thread && channel === current.channel) body.thread_ts = thread;
  if (fields.file.files.length) body.files = [await attachment(fields.file.files[0])];
  if (!await post("/_sim/say", body)) return;
  fields.text.value = fields.file.value = "";
  if (channel !== current.channel) select(current.team, channel);
};

async function load() {
  teams = await (await fetch("/_sim/workspaces")).json();
  for (const message of await (await fetch("/_sim/messages")).json()) keep(message);
  current = current || {team: teams[0].team_id, channel: "C0GENERAL"};
  byId("say").elements.channel.value = current.channel;
  draw();
}
const stream = new EventSource("/_sim/stream");
stream.onopen = load;
stream.onmessage = (event) => { keep(JSON.parse(event.data)); if (current) draw(); };
</script>
</body>
</html>
"""
