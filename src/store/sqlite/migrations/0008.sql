-- Version 8: what attempts leave to be done of a message that several people get: who has it already. NULL where one target takes all
-- or nothing.
ALTER TABLE bodies ADD COLUMN progress BLOB;
