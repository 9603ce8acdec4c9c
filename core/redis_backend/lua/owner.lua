-- The lease on a partition: one orchestrator at a time, by the store's clock.
--
-- KEYS 1 owner   ARGV 1 name  2 epoch ('' to take it)  3 lease (us), 0 to give it up
-- Returns the epoch, or 0 while somebody else holds it.

local lease = tonumber(ARGV[3] or '')
if #ARGV ~= 3 or not (lease and lease >= 0 and lease <= 2 ^ 53) then error('TAILRACE wrong arguments') end
local parts = redis.call('TIME')
local now = tonumber(parts[1]) * 1000000 + tonumber(parts[2])
local owner = redis.call('HMGET', KEYS[1], 'name', 'epoch', 'until')
local epoch, held_until = tonumber(owner[2] or '0'), tonumber(owner[3] or '0')
if ARGV[2] == '' then
  if held_until > now then return 0 end
  epoch = epoch + 1
elseif owner[1] ~= ARGV[1] or owner[2] ~= ARGV[2] then
  return 0
end
-- Removing something, even nothing, lets the write behind it pass at full memory.
redis.call('HDEL', KEYS[1], '')
redis.call('HSET', KEYS[1], 'name', ARGV[1], 'epoch', epoch, 'until', lease > 0 and now + lease or 0)
return epoch
