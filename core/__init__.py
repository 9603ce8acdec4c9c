"""The engine: events, commands, the pure decider, and the ports it is run through. Imports no other layer."""
