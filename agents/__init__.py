"""The agent SDK, the runtime that runs handlers as a consumer group, and the agents that come with Tailrace."""
