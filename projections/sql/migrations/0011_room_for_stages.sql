-- Rows of stages are written when their run begins, and again when each stage has ended: room for both on the same page spares
-- their key a new entry.
ALTER TABLE tailrace.stages SET (fillfactor = 50);
