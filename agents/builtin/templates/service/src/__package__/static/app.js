"use strict";

const byId = (id) => document.getElementById(id);

async function showFeatures() {
  const answer = await fetch("api/info");
  const info = await answer.json();
  const items = info.features.map((feature) => {
    const item = document.createElement("li");
    item.textContent = feature;
    return item;
  });
  byId("features").replaceChildren(...items);
}

async function checkHealth() {
  const badge = byId("health");
  try {
    const answer = await fetch("health");
    const health = await answer.json();
    badge.dataset.state = answer.ok ? "ok" : "down";
    badge.textContent = answer.ok ? `Healthy · version ${health.version}` : "Not healthy";
  } catch {
    badge.dataset.state = "down";
    badge.textContent = "The server can't be reached";
  }
}

showFeatures();
checkHealth();
