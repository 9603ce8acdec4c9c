"""The plumbing around the pure core: commands from people, reports and timers, all through one append path."""
