"""What makes processes out of the layers: configuration, wiring, the command line, embedded servers, telemetry."""
