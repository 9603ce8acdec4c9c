"""Traces: the SDK of a process, and the engine's own spans, encoded from the log.

`sdk` sets a process up (and stays small where no collector is configured), `spans` makes engine spans out of records,
`otlp` their bytes, `exporter` sends them, `reader` follows the log, `document` shows or exports one run's trace.
"""
