-- The outputs of a run's completed stages, by stage, beside its status: for whoever reads the table itself.
ALTER TABLE tailrace.workflows ADD COLUMN stage_outputs jsonb NOT NULL DEFAULT '{}';
UPDATE tailrace.workflows AS w SET stage_outputs = o.outputs
FROM (
    SELECT workflow_id, jsonb_object_agg(stage, output) AS outputs
    FROM tailrace.stages WHERE output_attempt IS NOT NULL GROUP BY workflow_id
) AS o
WHERE o.workflow_id = w.workflow_id;
