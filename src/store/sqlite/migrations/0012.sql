-- Version 12: the deliveries of one subscription, as its log lists them: its id, which begins so, stands as the rule that planned them.
CREATE INDEX deliveries_subscribed ON deliveries (target_id, place) WHERE rule >= 'wh_' AND rule < 'wh`';
