"""The pure heart: definitions, state, `evolve` and `decide`. No I/O, no clock, no randomness, no `await`."""
