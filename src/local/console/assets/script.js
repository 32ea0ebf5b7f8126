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
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    const [before, after] = [[...old.childNodes], [...fresh.childNodes]];
    after.forEach((node, index) => (before[index] ? morph(before[index], node) : old.append(node)));
    before.slice(after.length).forEach((node) => node.remove());
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
          if (old) morph(old, fresh);
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
      at("link").textContent = "No connection to the platform";
      if (events.readyState === EventSource.CLOSED) { events = null; setTimeout(listen, 2000); }
    };
  };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { events?.close(); events = null; return; }
    listen();
    refresh();
  });
  listen();

  // --- Actions ----------------------------------------------------------------------------------

  document.addEventListener("submit", async (event) => {
    const form = event.target;
    if (!form.dataset.act) return;
    event.preventDefault();
    const button = form.querySelector("button");
    if (button.disabled) return;
    button.disabled = true;
    say(`${form.dataset.act}…`);
    try {
      const answer = await fetch(form.action, {
        method: "POST",
        headers: { accept: "application/json" },
        body: new URLSearchParams(new FormData(form)),
      });
      const { message } = await answer.json();
      if (answer.ok && form.action.endsWith("/delete")) return location.assign("/");
      say(message);
      at("link").textContent = answer.ok ? "" : message;
    } catch {
      at("link").textContent = "No connection to the platform";
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
    if (event.target.closest("[data-ask]")) { event.preventDefault(); at("ask").showModal(); }
    if (event.target.closest("[data-close]") && at("ask")) { event.preventDefault(); at("ask").close(); }
  });

  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.nodeName);
    const field = query || find;
    if (event.key === "/" && !typing && field) { event.preventDefault(); field.focus(); }
    if (event.key === "Escape" && typing && event.target.type === "search" && event.target.value) {
      event.target.value = "";
      event.target.dispatchEvent(new Event("input"));
    }
  });
})();
