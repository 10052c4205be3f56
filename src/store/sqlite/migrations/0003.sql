-- Version 3: what was tried and waits, in the order in which it reaches its give-up time.

CREATE INDEX deliveries_tried ON deliveries (target_id, first_attempt_at - stood_still_ms)
    WHERE state = 0 AND first_attempt_at IS NOT NULL;
