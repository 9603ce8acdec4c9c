"""The ports of the engine: what a store of workflows and a queue of tasks promise, in the words of the domain."""
