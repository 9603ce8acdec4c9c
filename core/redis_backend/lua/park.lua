-- Move a report that can't be applied to the parked ones, with its reason.
--
-- KEYS 1 reports  2 parked   ARGV 1 entry  2 reason  3 how many to keep
-- Returns 1, or 0 when it was gone.

if #KEYS ~= 2 or #ARGV ~= 3 or not string.match(ARGV[3], '^%d+$') then error('TAILRACE wrong arguments') end
for _, key in ipairs(KEYS) do
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= 'stream' then error('TAILRACE key ' .. key .. ' is a ' .. found) end
end
local entry = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not entry or entry[1] ~= ARGV[1] then return 0 end
redis.call('XDEL', KEYS[1], ARGV[1])
local fields = {'source', 'report', 'entry', ARGV[1], 'reason', ARGV[2]}
for _, value in ipairs(entry[2]) do fields[#fields + 1] = value end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', unpack(fields, 1, math.min(#fields, 200)))
return 1
