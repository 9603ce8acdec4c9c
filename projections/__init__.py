"""Read models in Postgres, built from events only, and the watchdog that explains what stands still."""
