-- How many runs there are, by status; a row may stay at 0 when the last one has left it.
CREATE TABLE tailrace.totals (
    status    text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    runs      bigint NOT NULL,
    PRIMARY KEY (status, partition)
) WITH (fillfactor = 20);
