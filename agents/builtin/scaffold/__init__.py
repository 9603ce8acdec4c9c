"""The scaffold agent: requirements become a plan (`initialization`), and a plan becomes a project (`scaffolding`)."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from tailrace.agents.breaker import Breaker
from tailrace.agents.builtin import source
from tailrace.agents.builtin.inputs import stage_output
from tailrace.agents.builtin.outputs import Plan, Scaffolded
from tailrace.agents.builtin.scaffold.provider import Brief, Provider
from tailrace.agents.builtin.scaffold.template_provider import TemplateProvider
from tailrace.agents.sdk import Agent, ArtifactRef, TaskContext, TaskInput

FOLDER = "project"


def agent(provider: Provider | None = None) -> Agent:
    """The agent `scaffold`, with the given provider or the deterministic one."""
    scaffold = Agent("scaffold")
    thinker: Provider = provider or TemplateProvider()

    @scaffold.action("initialization")
    async def initialization(context: TaskContext, task: TaskInput) -> Plan:
        await context.progress(0.1, "reading the requirements")
        brief = Brief(name=task.name, description=task.description, requirements=task.requirements)
        plan: Plan = await _breaker(context, thinker).call(thinker.plan, brief)
        context.log.info("planned %s with %d files", plan.kind, len(plan.files))
        await context.progress(1.0, f"planned a {plan.kind} with {', '.join(plan.features)}")
        return plan

    @scaffold.action("scaffolding")
    async def scaffolding(context: TaskContext, task: TaskInput) -> Scaffolded:
        plan = stage_output(task, "initialization", Plan)
        await context.progress(0.1, f"writing {len(plan.files)} files")
        texts = await _breaker(context, thinker).call(thinker.files, plan)
        files = {path: text.encode() for path, text in texts.items()}
        await asyncio.to_thread(source.write_folder, context.workspace, FOLDER, files)
        await context.progress(0.8, "storing the project")
        archive = await asyncio.to_thread(source.pack, files)
        ref = await context.put_artifact(archive, name=f"{plan.distribution}-source.zip", media_type="application/zip")
        source.remember(context.workspace, FOLDER, ref)
        return _scaffolded(plan, texts.values(), ref)

    return scaffold


def _breaker(context: TaskContext, provider: Provider) -> Breaker:
    breaker: Breaker = context.circuit(f"provider:{provider.name}")
    return breaker


def _scaffolded(plan: Plan, texts: Collection[str], ref: ArtifactRef) -> Scaffolded:
    return Scaffolded(
        title=plan.title,
        distribution=plan.distribution,
        package=plan.package,
        kind=plan.kind,
        version=plan.version,
        operations=plan.operations,
        folder=FOLDER,
        files=len(texts),
        lines=sum(text.count("\n") for text in texts),
        source=ref,
    )
