// What makes the pages live. They can be read without it; there is no second way to render
// anything here but log lines, which are made of text nodes alone.
"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const main = at("main");
  const say = (text) => { at("say").textContent = text; };

  // --- Taking over what is different in a newer page -------------------------------------------

  const morph = (old, fresh) => {
    if (old.isEqualNode(fresh)) return;
    if (old.nodeName !== fresh.nodeName || old.id !== fresh.id) return old.replaceWith(fresh);
    if (old.nodeType !== Node.ELEMENT_NODE) { old.data = fresh.data; return; }
    // What is disabled here is amid its action, of which the server's page knows nothing.
    for (const { name } of [...old.attributes]) if (name !== "disabled" && !fresh.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    within(old, fresh);
  };

  // What has an id stays itself wherever it goes: a row above it must not make another's button of
  // the one that somebody is about to press.
  const within = (old, fresh) => {
    const wanted = new Set([...fresh.children].map((child) => child.id).filter(Boolean));
    const known = new Map();
    for (const child of [...old.children]) {
      if (!child.id) continue;
      if (wanted.has(child.id)) known.set(child.id, child);
      else child.remove();
    }
    let at = old.firstChild;
    const pass = () => { const node = at; at = at.nextSibling; return node; };
    for (const node of [...fresh.childNodes]) {
      const twin = node.id ? known.get(node.id) : at && !at.id ? at : null;
      if (!twin) { old.insertBefore(node, at); continue; }
      while (node.id && at && !at.id) pass().remove();
      if (twin === at) pass();
      else old.insertBefore(twin, at);
      morph(twin, node);
    }
    while (at) pass().remove();
  };

  const update = (old, fresh) => {
    const focused = document.activeElement;
    morph(old, fresh);
    // To move an element takes the focus from it.
    if (focused !== document.activeElement && old.contains(focused)) focused.focus({ preventScroll: true });
  };

  let loading = false;
  let wanted = false;
  const refresh = () => {
    if (loading) { wanted = true; return; }
    loading = true;
    // Parsed by the browser as a document, so that no text is ever made into markup here.
    const request = new XMLHttpRequest();
    request.open("GET", location.pathname);
    request.responseType = "document";
    request.onloadend = () => {
      loading = false;
      if (request.status === 404) return location.assign("/");
      if (request.status === 200) {
        for (const fresh of request.response.querySelectorAll("[data-live]")) {
          const old = at(fresh.id);
          if (old) update(old, fresh);
        }
        filter();
        replicas();
      }
      if (wanted) { wanted = false; refresh(); }
    };
    request.send();
  };

  // --- The list's filter ------------------------------------------------------------------------

  const query = at("q");
  const filter = () => {
    if (!query) return;
    const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of at("apps").rows) {
      row.hidden = !words.every((word) => row.dataset.find.includes(word));
      if (!row.hidden) shown += 1;
    }
    if (at("apps").rows.length) at("none").textContent = shown ? "" : "No app matches the filter.";
  };
  if (query) {
    query.addEventListener("input", () => {
      filter();
      // Kept in the address, for loading again and for going back.
      history.replaceState(null, "", query.value ? `/?q=${encodeURIComponent(query.value)}` : "/");
    });
    query.form.addEventListener("submit", (event) => event.preventDefault());
    // The server has left out what did not match; all rows are needed to filter them here.
    if (query.value) refresh();
  }

  // --- The log ----------------------------------------------------------------------------------

  const MOST = 2000;
  const log = at("log");
  const find = at("find");
  const who = at("who");
  const pressed = (id) => at(id).getAttribute("aria-pressed") === "true";
  let held = [];
  let frame = 0;
  let lost = 0;

  const make = (line) => {
    const row = document.createElement("div");
    if (line.gap) {
      row.className = "gap";
      row.textContent = `${line.gap} lines were skipped`;
      return row;
    }
    row.dataset.r = line.replica;
    const time = document.createElement("time");
    time.dateTime = line.at;
    time.textContent = line.time;
    const text = document.createElement("span");
    for (const [piece, style] of line.text) {
      if (!style) { text.append(piece); continue; }
      const span = document.createElement("span");
      span.className = style;
      span.textContent = piece;
      text.append(span);
    }
    row.append(time, text);
    return row;
  };

  const flush = () => {
    frame = 0;
    if (pressed("pause")) return count();
    const rows = held.map(make);
    held = [];
    log.append(...rows);
    while (log.childElementCount > MOST) log.firstElementChild.remove();
    if (lost) { log.prepend(make({ gap: lost })); lost = 0; }
    replicas();
    search();
  };

  const take = (lines) => {
    held.push(...lines);
    if (held.length > MOST) { lost += held.length - MOST; held = held.slice(-MOST); }
    const last = lines.findLast((line) => line.at);
    if (last) log.dataset.after = last.at;
    frame ||= requestAnimationFrame(flush);
  };

  // Lines that do not match are hidden, and what matches is marked without touching the text.
  const search = () => {
    const text = find.value.toLowerCase();
    const ranges = [];
    let shown = 0;
    for (const row of log.children) {
      const is = !who.value || row.dataset.r === who.value;
      const content = row.textContent.toLowerCase();
      row.hidden = !(is && (!text || content.includes(text)));
      if (row.hidden) continue;
      shown += 1;
      if (text && row.lastElementChild) mark(row.lastElementChild, text, ranges);
    }
    if (window.CSS?.highlights) {
      if (ranges.length) CSS.highlights.set("found", new Highlight(...ranges));
      else CSS.highlights.delete("found");
    }
    count(text || who.value ? shown : null);
    if (pressed("follow")) log.scrollTop = log.scrollHeight;
  };

  const mark = (element, text, ranges) => {
    const walk = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
    for (let node = walk.nextNode(); node && ranges.length < 5000; node = walk.nextNode()) {
      const content = node.data.toLowerCase();
      for (let from = content.indexOf(text); from >= 0; from = content.indexOf(text, from + text.length)) {
        if (from + text.length > node.length) break;
        const range = new Range();
        range.setStart(node, from);
        range.setEnd(node, from + text.length);
        ranges.push(range);
      }
    }
  };

  const count = (shown = null) => {
    const parts = [];
    if (shown !== null) parts.push(`${shown} of ${log.childElementCount} lines`);
    if (pressed("pause")) parts.push(held.length ? `paused, ${held.length} new lines` : "paused");
    at("count").textContent = parts.join("; ");
  };

  const replicas = () => {
    if (!who) return;
    const known = new Set([...who.options].map((option) => option.value));
    for (const row of log.children) {
      const name = row.dataset.r;
      if (name && !known.has(name)) { known.add(name); who.add(new Option(name, name)); }
    }
  };

  const toggle = (id, then) => at(id).addEventListener("click", () => {
    at(id).setAttribute("aria-pressed", String(!pressed(id)));
    then();
  });

  if (log) {
    toggle("pause", flush);
    toggle("follow", () => { if (pressed("follow")) log.scrollTop = log.scrollHeight; });
    toggle("wrap", () => log.classList.toggle("wrap", pressed("wrap")));
    find.addEventListener("input", search);
    who.addEventListener("change", search);
    // Whoever scrolls up wants to read; whoever comes back to the end wants to follow.
    log.addEventListener("scroll", () => {
      const isEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
      at("follow").setAttribute("aria-pressed", String(isEnd));
    });
    replicas();
    log.scrollTop = log.scrollHeight;
  }

  // --- Events, only while somebody looks: a browser has six connections to a place ----------------

  let events = null;
  const listen = () => {
    if (events || !main.dataset.stream || document.hidden) return;
    const after = log ? `?after=${encodeURIComponent(log.dataset.after)}` : "";
    events = new EventSource(main.dataset.stream + after);
    let soon = 0;
    const change = () => { soon ||= setTimeout(() => { soon = 0; refresh(); }, 60); };
    events.addEventListener("change", change);
    events.addEventListener("tick", change);
    events.addEventListener("log", (event) => take(JSON.parse(event.data)));
    events.addEventListener("gap", (event) => take([{ gap: Number(event.data) }]));
    events.onopen = () => { if (at("link").textContent) { at("link").textContent = ""; refresh(); } };
    events.onerror = () => {
      // Closed is what was answered with a refusal; without an answer the browser goes on trying.
      const isFull = events.readyState === EventSource.CLOSED;
      at("link").textContent = isFull ? "Too many pages are open; this one is slow to change" : "No connection to the platform";
      if (isFull) { events = null; setTimeout(() => { listen(); refresh(); }, 3000); }
    };
  };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { events?.close(); events = null; return; }
    listen();
    refresh();
  });
  listen();

  // --- Actions ----------------------------------------------------------------------------------

  // Nothing but what is inside of an open dialog can be seen and heard.
  const fail = (form, message) => {
    const place = form.closest("dialog")?.querySelector("[role=alert]") ?? at("oops");
    place.textContent = message;
  };

  document.addEventListener("submit", async (event) => {
    const form = event.target;
    if (!form.dataset.act) return;
    event.preventDefault();
    const button = form.querySelector("button");
    if (button.disabled) return;
    button.disabled = true;
    fail(form, "");
    say(`${form.dataset.act}…`);
    try {
      const answer = await fetch(form.action, {
        method: "POST",
        headers: { accept: "application/json" },
        body: new URLSearchParams(new FormData(form)),
      });
      const { message } = await answer.json();
      if (answer.ok && form.action.endsWith("/delete")) return location.assign("/");
      if (answer.ok) say(message);
      else fail(form, message);
    } catch {
      fail(form, "The platform does not answer; nothing was changed");
    } finally {
      button.disabled = false;
      refresh();
    }
  });

  document.addEventListener("click", async (event) => {
    const copy = event.target.closest("[data-copy]");
    if (copy) {
      await navigator.clipboard.writeText(at(copy.dataset.copy).textContent);
      copy.textContent = "Copied";
      say("Copied");
      setTimeout(() => { copy.textContent = "Copy"; }, 1500);
    }
    if (event.target.closest("[data-ask]")) { event.preventDefault(); fail(at("ask-form"), ""); at("ask").showModal(); }
    if (event.target.closest("[data-close]") && at("ask")) { event.preventDefault(); at("ask").close(); }
  });

  // One key does something here, which may be in somebody's way: it can be turned off, and stays so.
  const keys = at("keys");
  const kept = (() => { try { return localStorage; } catch { return {}; } })();
  const show = () => {
    keys.setAttribute("aria-pressed", String(kept.slash !== "off"));
    document.documentElement.classList.toggle("nokeys", kept.slash === "off");
  };
  keys.addEventListener("click", () => { kept.slash = kept.slash === "off" ? "on" : "off"; show(); });
  show();

  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.nodeName);
    const field = query || find;
    const isPlain = !(event.ctrlKey || event.metaKey || event.altKey);
    if (event.key === "/" && isPlain && !typing && field && pressed("keys")) { event.preventDefault(); field.focus(); }
    if (event.key === "Escape" && typing && event.target.type === "search" && event.target.value) {
      event.target.value = "";
      event.target.dispatchEvent(new Event("input"));
    }
  });
})();
