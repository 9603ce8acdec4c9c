-- How far the undoing of a stage is (pending, running, completed, failed; null where nothing is undone), and which tasks undo.
ALTER TABLE tailrace.stages ADD COLUMN compensation text COLLATE "C";
ALTER TABLE tailrace.tasks ADD COLUMN compensation boolean NOT NULL DEFAULT false;
