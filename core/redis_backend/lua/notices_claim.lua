-- The notice that has been due longest for a target; for a while nobody else gets it.
--
-- KEYS 1 due  2 out   ARGV 1 for how long (us)
-- Returns {id, body, claimed until}, or nothing.

if #KEYS ~= 2 or #ARGV ~= 1 or not string.match(ARGV[1], '^%d+$') then error('TAILRACE wrong arguments') end
for index, kind in ipairs({'zset', 'hash'}) do
  local found = redis.call('TYPE', KEYS[index]).ok
  if found ~= 'none' and found ~= kind then error('TAILRACE key ' .. KEYS[index] .. ' is a ' .. found) end
end
local parts = redis.call('TIME')
local now = tonumber(parts[1]) * 1000000 + tonumber(parts[2])
local id = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1)[1]
if not id then return {} end
local body = redis.call('HGET', KEYS[2], id)
redis.call('ZREM', KEYS[1], id)
if not body then return {} end
local until_us = string.format('%.0f', now + tonumber(ARGV[1]))
redis.call('ZADD', KEYS[1], until_us, id)
return {id, body, until_us}
