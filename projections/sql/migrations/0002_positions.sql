-- Where readers of the log are that write no rows, such as the one that sends spans. Apart from `checkpoints`, because
-- they must not hold back trimming: what was trimmed is in the archive.
CREATE TABLE tailrace.positions (
    reader     text COLLATE "C" NOT NULL,
    partition  integer NOT NULL,
    position   text COLLATE "C" NOT NULL,
    seq        bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (reader, partition)
) WITH (fillfactor = 20);
