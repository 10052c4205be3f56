-- Version 7: deliveries for one recipient of several, and those whose target has yet to report.

ALTER TABLE deliveries ADD COLUMN recipient TEXT;                               -- whom it is for, once one that was for several was split
-- Once a digest was split, the others name the first one, which those inside name too, as their `carrier`.
ALTER TABLE deliveries ADD COLUMN unmade INTEGER NOT NULL DEFAULT 0;            -- how often something was taken out of the digest it carries
ALTER TABLE deliveries ADD COLUMN unconfirmed INTEGER NOT NULL DEFAULT 0;       -- 1: delivered for want of a report
-- One that was taken and not yet reported on has turn 4: it is in no queue, holds its order key, and counts as delivered at `due_at`.
CREATE INDEX deliveries_unreported ON deliveries (due_at) WHERE state = 0 AND turn = 4;
