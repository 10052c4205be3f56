-- Version 10: whether somebody has a message that several people get; whoever dies of the others then gives up no throttle's place.
ALTER TABLE bodies ADD COLUMN reached INTEGER NOT NULL DEFAULT 0;
