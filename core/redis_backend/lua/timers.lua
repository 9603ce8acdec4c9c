-- Timers that are due, oldest first, with their due times; and when the next one is. None during a grace.
--
-- KEYS 1 timers  2 pulse   ARGV 1 count  2 lease (us)  3 pulse limit (us)
-- Returns {next due or '', name, due, name, due, ...}.

if #ARGV ~= 3 then error('TAILRACE ' .. #ARGV .. ' arguments') end
for index, kind in ipairs({'zset', 'hash'}) do
  local found = redis.call('TYPE', KEYS[index]).ok
  if found ~= 'none' and found ~= kind then error('TAILRACE key ' .. KEYS[index] .. ' is a ' .. found) end
end
local count, lease, late = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
for _, value in ipairs({count or -1, lease or -1, late or -1}) do
  if not (value >= 0 and value % 1 == 0) then error('TAILRACE an argument is not a whole number') end
end
local parts = redis.call('TIME')
local now = tonumber(parts[1]) * 1000000 + tonumber(parts[2])
local grace = poll(KEYS[2], now, lease, late)
if grace > now then return {string.format('%.0f', grace)} end
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'WITHSCORES', 'LIMIT', 0, count)
local following = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%.0f', now), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
local answer = {following[2] or ''}
for _, value in ipairs(due) do answer[#answer + 1] = value end
return answer
