"use strict";

const HISTORY_LENGTH = 5;
const byId = (id) => document.getElementById(id);
const form = byId("calculator");

function chosen() {
  return form.querySelector("input[name=operation]:checked");
}

function operandsOf(operation) {
  const fields = Number(operation.dataset.operands) === 1 ? ["a"] : ["a", "b"];
  return fields.map((id) => Number(byId(id).value));
}

function expressionOf(operation, operands) {
  const numbers = operands.map(String);
  const sign = operation.dataset.sign;
  if (numbers.length === 2) {
    return `${numbers[0]} ${sign} ${numbers[1]}`;
  }
  return sign.includes("x") ? sign.replace("x", numbers[0]) : `${sign} ${numbers[0]}`;
}

function adaptFields() {
  const single = Number(chosen().dataset.operands) === 1;
  byId("second").hidden = single;
  byId("b").required = !single;
  byId("a-name").textContent = single ? "Number" : "First number";
}

function show(expression, result, problem) {
  byId("expression").textContent = expression;
  byId("display").classList.toggle("failed", Boolean(problem));
  byId("result").hidden = Boolean(problem);
  byId("error").hidden = !problem;
  byId("result").textContent = problem ? "" : String(result);
  byId("error").textContent = problem || "";
}

function remember(expression, result) {
  const item = document.createElement("li");
  const left = document.createElement("span");
  const right = document.createElement("strong");
  left.textContent = expression;
  right.textContent = String(result);
  item.append(left, right);
  byId("history").prepend(item);
  while (byId("history").children.length > HISTORY_LENGTH) {
    byId("history").lastElementChild.remove();
  }
  byId("past").hidden = false;
}

async function calculate(event) {
  event.preventDefault();
  const operation = chosen();
  const operands = operandsOf(operation);
  const expression = expressionOf(operation, operands);
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    const answer = await fetch("api/calculate", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ operation: operation.value, operands }),
    });
    const body = await answer.json();
    if (answer.ok) {
      show(expression, body.result, "");
      remember(expression, body.result);
    } else {
      show(expression, "", body.error.message);
    }
  } catch {
    show(expression, "", "The server can't be reached.");
  } finally {
    button.disabled = false;
  }
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

form.addEventListener("submit", calculate);
form.addEventListener("change", adaptFields);
adaptFields();
checkHealth();
