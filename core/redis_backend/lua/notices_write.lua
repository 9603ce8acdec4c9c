-- One step of the notice book: how far the log was read, the incidents, the runs in them, and what is to be told of them.
--
-- KEYS 1 book  2 standing, then due and out of each target
-- ARGV 1 version  2 targets  3 fields of the book  4 runs  5 notices  6 how many a target may have  7 expiry (ms)
--      then (field, value) each, (run, incident) each, where '' removes, and (id, body) of each notice
-- Returns {1, how many did not fit}, or {0} when the book is at another version.

if #ARGV < 7 then error('TAILRACE wrong arguments') end
local count = {}
for index = 1, 7 do
  if not string.match(ARGV[index], '^%d+$') then error('TAILRACE argument ' .. index .. ' is not a whole number') end
  count[index] = tonumber(ARGV[index])
end
local targets, fields, runs, notices = count[2], count[3], count[4], count[5]
if #KEYS ~= 2 + 2 * targets or #ARGV ~= 7 + 2 * (fields + runs + notices) then error('TAILRACE wrong arguments') end
for index, key in ipairs(KEYS) do
  local wanted = (index > 2 and index % 2 == 1) and 'zset' or 'hash'
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= wanted then error('TAILRACE key ' .. key .. ' is a ' .. found) end
end
if tonumber(redis.call('HGET', KEYS[1], 'version') or '0') ~= count[1] then return {0} end
local parts = redis.call('TIME')
local now = tonumber(parts[1]) * 1000000 + tonumber(parts[2])

-- Removing something, even nothing, lets the writes behind it pass at full memory.
redis.call('HDEL', KEYS[1], '')
redis.call('HSET', KEYS[1], 'version', count[1] + 1)
local at = 8
for index = 1, fields + runs do
  local key = index <= fields and KEYS[1] or KEYS[2]
  if ARGV[at + 1] == '' then redis.call('HDEL', key, ARGV[at]) else redis.call('HSET', key, ARGV[at], ARGV[at + 1]) end
  at = at + 2
end
local dropped = 0
for target = 1, notices > 0 and targets or 0 do
  local due, out = KEYS[1 + 2 * target], KEYS[2 + 2 * target]
  for index = 0, notices - 1 do
    local id, body = ARGV[at + 2 * index], ARGV[at + 2 * index + 1]
    if redis.call('HLEN', out) < count[6] then
      redis.call('HSET', out, id, body)
      redis.call('ZADD', due, string.format('%.0f', now), id)
    else
      dropped = dropped + 1
    end
  end
  redis.call('PEXPIRE', due, count[7])
  redis.call('PEXPIRE', out, count[7])
end
return {1, dropped}
