-- The end of a partition's log at one moment: its counters, and the id of its last entry. Writes nothing.
--
-- KEYS 1 head  2 log   Returns {seq or nil, epoch or nil, entry id}.

local counters = redis.call('HMGET', KEYS[1], 'seq', 'epoch')
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
return {counters[1], counters[2], last and last[1] or '0-0'}
