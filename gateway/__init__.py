"""The HTTP side: REST, server-sent events and health."""
