-- name: load
SELECT position, seq FROM tailrace.positions WHERE reader = $1 AND partition = $2

-- name: save
INSERT INTO tailrace.positions AS p (reader, partition, position, seq)
SELECT $1, partition, $4, $5 FROM tailrace.partitions WHERE partition = $2 AND owner = $3
ON CONFLICT (reader, partition) DO UPDATE
SET position = EXCLUDED.position, seq = EXCLUDED.seq, updated_at = now()
