-- Move a timer that can't be decided to what is parked, with its reason, if it is still the one that was seen.
--
-- KEYS 1 timers  2 parked   ARGV 1 name  2 due time  3 reason  4 how many to keep
-- Returns 1, or 0 when it was gone or set anew.

local due = tonumber(ARGV[2] or '')
if #KEYS ~= 2 or #ARGV ~= 4 or not (due and due >= 0) or not string.match(ARGV[4], '^%d+$') then
  error('TAILRACE wrong arguments')
end
for index, kind in ipairs({'zset', 'stream'}) do
  local found = redis.call('TYPE', KEYS[index]).ok
  if found ~= 'none' and found ~= kind then error('TAILRACE key ' .. KEYS[index] .. ' is a ' .. found) end
end
local found = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not found or tonumber(found) ~= due then return 0 end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', 'source', 'timer', 'entry', ARGV[1], 'reason', ARGV[3],
  'due', ARGV[2])
return 1
