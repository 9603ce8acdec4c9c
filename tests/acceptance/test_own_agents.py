"""An agent and a pipeline of one's own: a module, a TOML file, and the same commands."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.acceptance.installation import Installation

MODULE = """
from msgspec import Struct

from tailrace.agents.sdk import Agent, TaskContext, TaskInput

agent = Agent("greeter")


class Greeting(Struct):
    text: str
    letters: int


@agent.action("greet")
async def greet(context: TaskContext, task: TaskInput) -> Greeting:
    await context.progress(0.5, "thinking of words")
    text = f"Hello {task.input['who']}{task.params['mark']}"
    return Greeting(text=text, letters=len(text))


@agent.action("count")
async def count(context: TaskContext, task: TaskInput) -> int:
    return task.stages["greeting"]["letters"] * 2
"""

DEFINITION = """
name = "welcome"
description = "Greets, and counts."

[[stages]]
name = "greeting"
agent = "greeter"
action = "greet"
params = { mark = "!" }

[[stages]]
name = "counting"
agent = "greeter"
action = "count"
needs = ["greeting"]
"""


def test_own_agents_run_in_own_pipeline(folder: Path) -> None:
    """`up --app` serves them beside the built-in ones that are asked for; a definition becomes known without a restart."""
    (folder / "greetings.py").write_text(MODULE)
    (folder / "welcome.toml").write_text(DEFINITION)
    (folder / "who.json").write_text(json.dumps({"who": "world"}))
    settings = {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}
    with Installation(
        folder, agents="scaffold", arguments=("--app", "greetings:agent"), environment=settings
    ) as installation:
        assert {"worker-scaffold", "worker-app"} <= set(installation.pids())
        assert "welcome is valid: 2 stages" in installation.ok("definitions", "validate", "welcome.toml").out
        installation.ok("definitions", "apply", "welcome.toml")
        assert "welcome" in installation.ok("definitions", "list").out
        assert "counting" in installation.ok("definitions", "show", "welcome").out
        done = installation.ok("submit", "welcome", "--name", "first", "--input", "who.json", "--wait", "--json").json
        assert done["status"] == "completed"
        assert done["stage_outputs"] == {"greeting": {"text": "Hello world!", "letters": 12}, "counting": 24}
        agents = {item["agent"]: item for item in installation.ok("agents", "--json").json["items"]}
        assert agents["greeter"]["live_workers"] == 1
        assert agents["scaffold"]["live_workers"] == 1
        broken = folder / "broken.toml"
        broken.write_text(DEFINITION.replace('["greeting"]', '["nothing"]'))
        refused = installation.cli("definitions", "apply", str(broken))
        assert refused.code == 1
        assert "/stages/1/needs/0: there is no stage 'nothing'" in refused.err
