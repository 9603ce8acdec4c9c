-- Take a notice off that was claimed, or let it be tried again at a later time; only while the claim holds.
--
-- KEYS 1 due  2 out   ARGV 1 id  2 claimed until (us)  3 due at (us), 0 when it is done  4 body
-- Returns 1, or 0 when somebody else has it, or it is gone.

if #KEYS ~= 2 or #ARGV ~= 4 or not (string.match(ARGV[2], '^%d+$') and string.match(ARGV[3], '^%d+$')) then
  error('TAILRACE wrong arguments')
end
for index, kind in ipairs({'zset', 'hash'}) do
  local found = redis.call('TYPE', KEYS[index]).ok
  if found ~= 'none' and found ~= kind then error('TAILRACE key ' .. KEYS[index] .. ' is a ' .. found) end
end
local held = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not held or tonumber(held) ~= tonumber(ARGV[2]) then return 0 end
redis.call('ZREM', KEYS[1], ARGV[1])
if ARGV[3] == '0' then
  redis.call('HDEL', KEYS[2], ARGV[1])
else
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[4])
  redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
end
return 1
