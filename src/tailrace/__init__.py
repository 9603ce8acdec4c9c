"""Tailrace: pipelines of software agents that cannot get stuck silently.

The five packages below are layers; imports point one way: infra > gateway > projections | agents > core.
"""

__version__ = "0.1.0"
