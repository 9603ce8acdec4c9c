-- Remove a consumer from a group, only when nothing is pending under its name: its entries would be lost with it.
--
-- KEYS 1 task stream   ARGV 1 group  2 consumer
-- Returns 1 when it was removed.

if #ARGV ~= 2 then error('TAILRACE ' .. #ARGV .. ' arguments') end
local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2])
if pending.err or #pending > 0 then return 0 end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
return 1
