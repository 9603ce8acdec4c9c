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
local grace = poll(KEYS[2], now, lease, late)
if grace > now then return {} end
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, count)
