-- A worker's report. It counts only from the one who holds the task now: same consumer, same delivery.
--
-- KEYS 1 task stream  2 reports  3 cancels
-- ARGV 1 group  2 entry  3 consumer  4 delivery  5 final ('1' or '0')  6 task  7 workflow  8 traceparent  9 data
-- Returns 'ok' or 'lost'. A final report removes the task in the same step.

if #KEYS ~= 3 or #ARGV ~= 9 then error('TAILRACE ' .. #KEYS .. ' keys, ' .. #ARGV .. ' arguments') end
if not string.match(ARGV[4], '^%d+$') then error('TAILRACE delivery is ' .. ARGV[4]) end
if ARGV[5] ~= '0' and ARGV[5] ~= '1' then error('TAILRACE final is ' .. ARGV[5]) end
for index, kind in ipairs({'stream', 'stream', 'hash'}) do
  local found = redis.call('TYPE', KEYS[index]).ok
  if found ~= 'none' and found ~= kind then error('TAILRACE key ' .. KEYS[index] .. ' is a ' .. found) end
end
local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1)
if pending.err then return 'lost' end
if #pending == 0 then
  -- Who is told that the task is lost forgets it, and would not find at a renewal that nobody has it.
  give_up_acknowledged(KEYS[1], ARGV[1], ARGV[2], ARGV[3], KEYS[2], KEYS[3])
  return 'lost'
end
if pending[1][1] ~= ARGV[2] or pending[1][2] ~= ARGV[3] or tostring(pending[1][4]) ~= ARGV[4] then return 'lost' end
if ARGV[5] == '1' then
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
  redis.call('XDEL', KEYS[1], ARGV[2])
  redis.call('HDEL', KEYS[3], ARGV[6])
end
redis.call('XADD', KEYS[2], '*', 'workflow', ARGV[7], 'task', ARGV[6], 'traceparent', ARGV[8], 'data', ARGV[9])
return 'ok'
