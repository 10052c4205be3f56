-- Version 9: which step of a replay made a delivery, so that what replays make is listed in the order in which it was made.
CREATE INDEX replays_seq ON replays (seq);
