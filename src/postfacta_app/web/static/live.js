// Keep the page of an incident live. Its stream says that something changed; what, an ordinary
// request says. Nothing moves under a reader: a part in which somebody works stays as it is.
(() => {
  const notice = document.getElementById("live");
  const parts = () => [...document.querySelectorAll("[data-live]")];
  const differs = (field) =>
    field.type !== "hidden" &&
    (field.tagName === "SELECT"
      ? field.selectedIndex !== Math.max(0, [...field.options].findIndex((option) => option.defaultSelected))
      : field.type === "checkbox" || field.type === "radio"
        ? field.checked !== field.defaultChecked
        : field.value !== field.defaultValue);
  const inUse = (part) =>
    part.contains(document.activeElement) ||
    part.querySelector("details[open]") !== null ||
    [...part.querySelectorAll("input, select, textarea")].some(differs);
  const inSight = () =>
    [...document.querySelectorAll("[id^='e-']")].find((line) => line.getBoundingClientRect().bottom > 0);

  let running = false;
  let due = false;
  async function refresh() {
    due = true;
    if (running) return;
    running = true;
    while (due) {
      due = false;
      try {
        const answer = await fetch(location.pathname + location.search);
        if (answer.ok) show(new DOMParser().parseFromString(await answer.text(), "text/html"));
      } catch {
        notice.textContent = "This page may not be up to date: the service cannot be reached.";
      }
    }
    running = false;
  }
  function show(next) {
    let left = 0;
    const line = inSight();
    const top = line?.getBoundingClientRect().top;
    for (const part of parts()) {
      const fresh = next.getElementById(part.id);
      if (fresh === null || fresh.textContent === part.textContent) continue;
      if (inUse(part)) left += 1;
      else part.replaceWith(fresh);
    }
    const again = line && document.getElementById(line.id);
    if (again) scrollBy(0, again.getBoundingClientRect().top - top);
    notice.textContent = left ? "This page has changed. It is shown anew once you are done here." : "";
  }
  document.addEventListener("focusout", () => {
    if (notice.textContent) setTimeout(refresh);
  });
  // Over HTTP/1.1 a browser has six connections for all tabs: one that is not seen has no stream.
  let source = null;
  function follow() {
    source?.close();
    source = null;
    if (document.hidden) return;
    source = new EventSource(location.pathname + "/events");
    for (const name of ["changed", "gap", "fresh"]) source.addEventListener(name, refresh);
    source.addEventListener("stale", () => {
      notice.textContent = "This page may not be up to date: the database cannot be reached.";
    });
    let opened = false;
    source.addEventListener("open", () => {
      if (opened) refresh();
      opened = true;
    });
  }
  document.addEventListener("visibilitychange", () => {
    follow();
    if (source) refresh();
  });
  follow();
})();
