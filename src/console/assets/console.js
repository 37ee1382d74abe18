// Everything works without this file. With it: local times, copying, dialogs, rows that change while one looks.
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
// The only markup that is made of text: our own pages and rows, in which the server has escaped everything.
const policy = window.trustedTypes?.createPolicy("tidings", { createHTML: (html) => html }) ?? { createHTML: (html) => html };
const parse = (html) => new DOMParser().parseFromString(policy.createHTML(html), "text/html");

function enhance(root) {
  // Sweden writes times as ISO 8601 does.
  for (const time of $$("time", root)) time.textContent = new Date(time.dateTime).toLocaleString("sv");
  if (navigator.clipboard) for (const button of $$("[data-copy]", root)) button.hidden = false;
}
enhance(document);
const zone = $("#zone");
if (zone) zone.textContent = Intl.DateTimeFormat().resolvedOptions().timeZone;

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) {
    const label = (button.dataset.label ??= button.textContent);
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = label), 1500);
    return;
  }
  const close = event.target.closest("dialog [data-close]");
  if (close) {
    event.preventDefault();
    close.closest("dialog").close();
    return;
  }
  const opener = event.target.closest("[data-dialog]");
  if (opener && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
    event.preventDefault();
    const form = await page(opener.href).then((page) => page && $("[data-form]", page), () => null);
    if (!form) return location.assign(opener.href);
    show(form, opener);
  }
});

// A form in a dialog. What is wrong with it is shown there; what comes of it is the next page.
function show(form, opener) {
  const dialog = document.createElement("dialog");
  const title = $("h1", form);
  title.id = "dialog-title";
  dialog.setAttribute("aria-labelledby", "dialog-title");
  dialog.append(document.adoptNode(form));
  document.body.append(dialog);
  dialog.addEventListener("close", () => (dialog.remove(), opener.focus()));
  enhance(dialog);
  dialog.showModal();
}

// Another page of ours, or nothing if one has to sign in first.
async function page(url) {
  const response = await fetch(url, { headers: { accept: "text/html" } });
  return response.ok && !response.redirected ? parse(await response.text()) : null;
}

// Nothing moves where somebody points, types or has selected.
const isHeld = (element) => element.matches(":hover") || element.contains(document.activeElement) || (getSelection()?.type === "Range" && getSelection().containsNode(element, true));

async function refresh() {
  if (document.hidden || $("dialog")) return;
  const fresh = await page(location.href).catch(() => null);
  if (!fresh) return;
  for (const old of $$("[data-refresh]")) {
    const other = fresh.getElementById(old.id);
    if (!other || isHeld(old)) continue;
    enhance(other);
    if (other.innerHTML === old.innerHTML) continue;
    const open = $$("details", old).map((details) => details.open);
    old.replaceChildren(...document.adoptNode(other).childNodes);
    $$("details", old).slice(-open.length || Infinity).forEach((details, index) => (details.open = open[index]));
  }
}
if ($("[data-refresh]")) setInterval(refresh, 10000);

const all = $("#all");
if (all) {
  all.hidden = false;
  all.addEventListener("change", ({ target }) => $$("#rows [name=delivery]").forEach((box) => (box.checked = target.checked)));
}

const live = $("#live");
if (live) watch();

function watch() {
  const body = $("#rows tbody"), table = $("#rows"), fresh = $("#fresh");
  const waiting = new Map(), max = 100;
  const say = (text, on) => {
    $("#live-state").textContent = text;
    live.classList.toggle("on", on);
  };
  live.hidden = false;
  say("Connecting…", false);

  const insert = () => {
    for (const row of waiting.values()) {
      row.classList.add("new");
      body.prepend(row);
    }
    waiting.clear();
    fresh.classList.remove("on");
    table.classList.remove("bare");
    while (body.rows.length > max) body.rows[body.rows.length - 1].remove();
  };
  const offer = () => {
    if (!waiting.size) return;
    if (!isHeld($("main"))) return insert();
    fresh.classList.add("on");
    fresh.textContent = waiting.size === 1 ? "Show 1 new delivery" : `Show ${waiting.size} new deliveries`;
  };
  fresh.addEventListener("click", insert);
  $("main").addEventListener("pointerleave", () => setTimeout(offer, 300));

  // A row that is there changes cell by cell, where it stands; a new one waits until it disturbs nobody.
  const take = (row) => {
    enhance(row);
    const old = document.getElementById(row.id);
    if (!old) {
      waiting.set(row.id, row);
      if (waiting.size > max) waiting.delete(waiting.keys().next().value);
      return;
    }
    [...row.cells].forEach((cell, index) => {
      const before = old.cells[index];
      if (index && before.innerHTML !== cell.innerHTML && !before.contains(document.activeElement)) before.replaceWith(cell.cloneNode(true));
    });
  };
  const rowOf = (html) => $("tr", parse(`<table><tbody>${html}</tbody></table>`));

  const stream = () =>
    new Promise((done) => {
      const source = new EventSource(live.dataset.live);
      // What happened before it opened is on the page.
      source.onopen = () => (say("Live", true), look());
      source.onerror = () => {
        say("Reconnecting…", false);
        if (source.readyState === EventSource.CLOSED) done();
      };
      source.addEventListener("row", (event) => (take(document.adoptNode(rowOf(event.data))), offer()));
      source.addEventListener("behind", () => (late ??= setTimeout(() => look().finally(() => (late = null)), 2000)));
      source.addEventListener("gone", (event) => waiting.delete(event.data));
      addEventListener("pagehide", () => (source.close(), done()), { once: true });
    });
  let late = null;
  const look = async () => {
    const other = await page(location.href).catch(() => null);
    for (const row of other ? $$("#rows tbody tr", other).reverse() : []) take(document.adoptNode(row));
    offer();
    return other;
  };
  const poll = async () => {
    if (!document.hidden) (await look()) ? say("Every 5 s", true) : say("Not connected", false);
  };
  // A browser opens six connections to a server. Three of them may be streams; further tabs ask from time to time.
  const slots = ["tidings-live-1", "tidings-live-2", "tidings-live-3"];
  const tryStream = async () => {
    if (!navigator.locks) return false;
    for (const slot of slots) {
      let got = false;
      const ended = navigator.locks.request(slot, { ifAvailable: true }, async (lock) => {
        got = !!lock;
        if (lock) await stream();
      });
      await Promise.race([ended, new Promise((next) => setTimeout(next, 200))]);
      if (got) return ended.then(() => true);
    }
    return false;
  };
  const run = async () => {
    if (!(await tryStream())) await poll();
    setTimeout(run, 5000);
  };
  run();
}
