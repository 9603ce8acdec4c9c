"""What tests build on, shipped for authors of agents and of back ends: a manual clock, builders, conformance suites."""
