-- A worker's beat, by the store's clock; passes at full memory, so that a full store does not look like dead workers.
--
-- KEYS 1 the worker's hash   ARGV 1 data  2 expiry (ms)
-- Returns the time in microseconds.

if #ARGV ~= 2 or not string.match(ARGV[2], '^%d+$') then error('TAILRACE wrong arguments') end
local parts = redis.call('TIME')
local now = tonumber(parts[1]) * 1000000 + tonumber(parts[2])
redis.call('HDEL', KEYS[1], '')
redis.call('HSET', KEYS[1], 'data', ARGV[1], 'at', now)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return now
