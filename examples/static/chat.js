"use strict";

const { room, url } = document.body.dataset;
const element = (id) => document.getElementById(id);
const log = element("log"), text = element("text"), name = element("name"), badge = element("worker"), kill = element("kill");

const NAMES = ["Ada", "Alan", "Barbara", "Donald", "Edsger", "Grace", "John", "Ken", "Margaret", "Niklaus", "Radia", "Tony"];
const RESEND = 400; // milliseconds until a message that may not have arrived is sent again
const GIVE_UP = 30; // attempts

const seen = new Map(); // message id -> its place on the page
let worker = null, lastId = "", last = null, source = null;

const randomId = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
const hue = (value) => [...value].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 360, 7);
const workerColour = (number) => `hsl(${(number * 137) % 360} 65% 50%)`;

function make(tag, className, content) {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = content;
  return made;
}

function append(node) {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  element("empty")?.remove();
  log.append(node);
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function note(content, className = "") {
  append(make("p", `note ${className}`, content));
  last = null;
}

function show(said, waiting = false) {
  const known = seen.get(said.id);
  if (known) {
    if (!waiting) confirm(known, said);
    return;
  }
  if (said.kind === "killed") {
    seen.set(said.id, null);
    return note(`${said.name} ${said.text}`, "killed");
  }
  const mine = said.name === name.value.trim();
  const box = make("div", "message", "");
  box.classList.toggle("mine", mine);
  box.classList.toggle("again", last === said.name);
  box.classList.toggle("waiting", waiting);
  box.style.setProperty("--hue", hue(said.name));
  const who = make("div", "who", "");
  who.append(make("b", "", said.name), make("span", "by", ""));
  box.append(who, make("div", "text", said.text));
  seen.set(said.id, box);
  last = said.name;
  if (!waiting) confirm(box, said);
  append(box);
}

function confirm(box, said) {
  box.classList.remove("waiting");
  const time = new Date(said.time * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  box.querySelector(".by").textContent = `${time} · by worker ${said.worker}`;
}

function connect() {
  source?.close();
  source = new EventSource(`${url}events?${new URLSearchParams({ name: name.value, last: lastId })}`);
  source.addEventListener("worker", (event) => {
    const before = worker;
    worker = JSON.parse(event.data);
    badge.dataset.state = "open";
    badge.style.setProperty("--worker", workerColour(worker.worker));
    badge.querySelector("b").textContent = `worker ${worker.worker} · pid ${worker.pid}`;
    kill.disabled = false;
    if (before && before.pid !== worker.pid) note(`Worker ${worker.worker} (process ${worker.pid}) serves you now; nothing was lost.`);
  });
  source.addEventListener("said", (event) => {
    lastId = event.lastEventId;
    show(JSON.parse(event.data));
  });
  source.addEventListener("presence", refreshPeople);
  source.addEventListener("error", () => {
    badge.dataset.state = "connecting";
    badge.querySelector("b").textContent = "connecting …";
    kill.disabled = true;
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 1000);
  });
}

let refreshing = null;
function refreshPeople() {
  clearTimeout(refreshing);
  refreshing = setTimeout(async () => {
    const answer = await fetch(`${url}people`).catch(() => null);
    if (!answer?.ok) return;
    element("people").replaceChildren(
      ...Object.entries(await answer.json()).flatMap(([number, names]) =>
        names.map((each) => {
          const item = make("li", "", each);
          item.title = `on worker ${number}`;
          item.style.setProperty("--worker", workerColour(Number(number)));
          return item;
        })),
    );
  }, 100);
}

async function post(path, body, attempts = GIVE_UP) {
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  for (let attempt = 0; attempt < attempts; attempt++) {
    const answer = await fetch(url + path, options).catch(() => null);
    if (answer && answer.status < 500) return answer.ok;
    await new Promise((resume) => setTimeout(resume, RESEND));
  }
  return false;
}

let sent = Promise.resolve(true); // one after the other: two requests under way may reach two workers in either order

element("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const said = { id: randomId(), name: name.value.trim(), text: text.value.trim() };
  if (!said.name || !said.text) return;
  text.value = "";
  show(said, true);
  log.scrollTop = log.scrollHeight;
  sent = sent.then(() => post("messages", said));
  if (!(await sent)) note("Your last message was not sent.", "killed");
});

kill.addEventListener("click", () => {
  kill.disabled = true;
  post("kill", { name: name.value.trim() || "someone", pid: worker.pid }, 1);
});

name.value = new URLSearchParams(location.search).get("name") || localStorage.getItem("name")
  || NAMES[Math.floor(Math.random() * NAMES.length)];
name.addEventListener("change", () => {
  localStorage.setItem("name", name.value);
  connect();
});
localStorage.setItem("name", name.value);
connect();
