-- Open runs whose expectation has passed, longest overdue first. None during a grace: the store was away, not the runs.
--
-- KEYS 1 expect  2 pulse   ARGV 1 count  2 lease (us)  3 pulse limit (us)

if #ARGV ~= 3 then error('TAILRACE ' .. #ARGV .. ' arguments') end
for index, kind in ipairs({'zset', 'hash'}) do
  local found = redis.call('TYPE', KEYS[index]).ok
  if found ~= 'none' and found ~= kind then error('TAILRACE key ' .. KEYS[index] .. ' is a ' .. found) end
end
local count, lease, late = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
for _, value in ipairs({count or -1, lease or -1, late or -1}) do
  if not (value >= 0 and value % 1 == 0) then error('TAILRACE an argument is not a whole number') end
end
local parts = redis.call('TIME')
local now = tonumber(parts[1]) * 1000000 + tonumber(parts[2])
local pulse = redis.call('HMGET', KEYS[2], 'at', 'grace_until')
local at, grace = tonumber(pulse[1] or ''), tonumber(pulse[2] or '0')
-- Many poll; it is enough that the pulse is never older than a part of what counts as late. A write is a sync to disk.
if not at or now - at > late / 4 or at > now then
  -- Removing something, even nothing, lets the writes behind it pass at full memory.
  redis.call('HDEL', KEYS[2], '')
  if at and (now - at > late or at > now) then
    grace = now + lease
    redis.call('HSET', KEYS[2], 'grace_until', grace)
  end
  redis.call('HSET', KEYS[2], 'at', now)
end
if grace > now then return {} end
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, count)
