-- Open runs whose expectation has passed, longest overdue first. None during a grace: the store was away, not the runs.
--
-- KEYS 1 expect  2 pulse   ARGV 1 count  2 lease (us)  3 pulse limit (us)

local count, lease, late = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local parts = redis.call('TIME')
local now = tonumber(parts[1]) * 1000000 + tonumber(parts[2])
local pulse = redis.call('HMGET', KEYS[2], 'at', 'grace_until')
local at, grace = tonumber(pulse[1] or ''), tonumber(pulse[2] or '0')
-- Removing something, even nothing, lets the writes behind it pass at full memory.
redis.call('HDEL', KEYS[2], '')
if at and (now - at > late or at > now) then
  grace = now + lease
  redis.call('HSET', KEYS[2], 'grace_until', grace)
end
redis.call('HSET', KEYS[2], 'at', now)
if grace > now then return {} end
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, count)
