-- Version 4: the first message of each thread.

-- What later messages of a thread answer to: Slack's `ts`, as it was given. Without it a restart would begin every thread anew.
CREATE TABLE threads (
    key      BLOB PRIMARY KEY,             -- 16 bytes: hash of target, place and what the target's `thread_by` found
    root     TEXT NOT NULL,
    begun_at INTEGER NOT NULL
) WITHOUT ROWID;
