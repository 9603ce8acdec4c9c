-- Open runs whose expectation has passed, longest overdue first. None during a grace: the store was away, not the runs.
--
-- KEYS 1 expect  2 pulse   ARGV 1 count

local parts = redis.call('TIME')
local now = tonumber(parts[1]) * 1000000 + tonumber(parts[2])
if tonumber(redis.call('HGET', KEYS[2], 'grace_until') or '0') > now then return {} end
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, tonumber(ARGV[1]))
