-- Remove entries from the beginning of the log, in whole nodes, up to one that stays: it must be there, under its number.
--
-- KEYS 1 head  2 log   ARGV 1 epoch  2 entry that stays  3 its seq  4 how many at most
-- Returns how many were removed, or -1 when this is another log.

if #KEYS ~= 2 or #ARGV ~= 4 then error('TAILRACE wrong arguments') end
local count = tonumber(ARGV[4])
if not (count and count >= 1 and count <= 2 ^ 31 and count % 1 == 0) or not string.match(ARGV[3], '^%d+$') then
  error('TAILRACE an argument is not a number')
end
for index, kind in ipairs({'hash', 'stream'}) do
  local found = redis.call('TYPE', KEYS[index]).ok
  if found ~= 'none' and found ~= kind then error('TAILRACE key ' .. KEYS[index] .. ' is a ' .. found) end
end
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return -1 end
if not redis.call('XRANGE', KEYS[2], '-', ARGV[2], 'COUNT', 1)[1] then return 0 end
local entry = redis.call('XRANGE', KEYS[2], ARGV[2], ARGV[2])[1]
if not entry or entry[1] ~= ARGV[2] then return -1 end
for index = 1, #entry[2], 2 do
  if entry[2][index] == 'seq' and entry[2][index + 1] == ARGV[3] then
    return redis.call('XTRIM', KEYS[2], 'MINID', '~', ARGV[2], 'LIMIT', ARGV[4])
  end
end
return -1
