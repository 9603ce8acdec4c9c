-- How many runs began, and how many have completed, in each minute of an hour (UTC); 60 numbers each.
CREATE TABLE tailrace.hours (
    hour      timestamptz NOT NULL,
    partition integer NOT NULL,
    created   integer[] NOT NULL,
    completed integer[] NOT NULL,
    PRIMARY KEY (hour, partition)
) WITH (fillfactor = 50);
