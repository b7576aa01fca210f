// Keys that lead somewhere. Every page works without this file.
"use strict";

const PLACES = { o: "/console", u: "/console/unknown", s: "/console/search", r: "/console/routes" };
/** How long after `g` the next key still belongs to it, in milliseconds. */
const SECOND_KEY_MAX = 1500;

let leading = 0;

const off = document.getElementById("keys-off");
if (off) {
  off.checked = localStorage.getItem("keys-off") === "yes";
  off.addEventListener("change", () => localStorage.setItem("keys-off", off.checked ? "yes" : "no"));
}

function isTyping(target) {
  return target.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(target.tagName);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || off?.checked) return;
  if (event.key === "Escape" && isTyping(event.target)) return event.target.blur();
  if (isTyping(event.target)) return;
  const follows = event.timeStamp - leading < SECOND_KEY_MAX && leading > 0;
  leading = 0;
  if (follows && PLACES[event.key]) {
    event.preventDefault();
    location.assign(PLACES[event.key]);
  } else if (event.key === "g") {
    leading = event.timeStamp;
  } else if (event.key === "/") {
    const field = document.getElementById("find");
    if (!field) return;
    event.preventDefault();
    field.focus();
    field.select();
  } else if (event.key === "?") {
    const help = document.getElementById("keys");
    if (!help) return;
    event.preventDefault();
    help.open = !help.open;
    if (help.open) help.querySelector("summary").focus();
  } else if (event.key === "j" || event.key === "k") {
    const rows = [...document.querySelectorAll("[data-row]")];
    if (rows.length === 0) return;
    event.preventDefault();
    const at = rows.indexOf(document.activeElement);
    const next = at < 0 ? 0 : Math.min(Math.max(at + (event.key === "j" ? 1 : -1), 0), rows.length - 1);
    rows[next].focus();
  }
});
