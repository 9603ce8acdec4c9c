-- Hand a task back: claimable at once, and not counted as a delivery.
--
-- KEYS 1 task stream   ARGV 1 group  2 consumer  3 entry  4 delivery  5 name of the holder of released tasks
-- Returns 1 when it was the caller's.

if #ARGV ~= 5 then error('TAILRACE ' .. #ARGV .. ' arguments') end
local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1)
if pending.err or #pending == 0 or pending[1][2] ~= ARGV[2] or tostring(pending[1][4]) ~= ARGV[4] then return 0 end
redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[5], 0, ARGV[3], 'IDLE', 86400000, 'RETRYCOUNT',
  math.max(0, tonumber(ARGV[4]) - 1), 'JUSTID')
return 1
