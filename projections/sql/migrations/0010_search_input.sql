-- Runs are found by what is in their input, as by their labels.
CREATE INDEX workflows_by_input ON tailrace.workflows USING gin (input jsonb_path_ops);
