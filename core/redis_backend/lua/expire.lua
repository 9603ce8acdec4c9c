-- Forget runs that have ended, except for their version: what is left keeps the id taken.
--
-- KEYS 1 head  2 expect  3.. the runs   ARGV 1 epoch, then for each run: workflow id, version that is archived
-- Returns how many were forgotten, or -1 when this is another log.

local runs = #KEYS - 2
if runs < 1 or #ARGV ~= 1 + 2 * runs then error('TAILRACE wrong arguments') end
for index = 3, #ARGV, 2 do
  if not string.match(ARGV[index], '^%d+$') then error('TAILRACE argument ' .. index .. ' is no version') end
end
for index, key in ipairs(KEYS) do
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= (index == 2 and 'zset' or 'hash') then error('TAILRACE key ' .. key .. ' is a ' .. found) end
end
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return -1 end

local forgotten = 0
for index = 1, runs do
  local key, workflow, version = KEYS[index + 2], ARGV[2 * index], ARGV[2 * index + 1]
  local known = redis.call('HMGET', key, 'v', 's')
  if known[1] == version and known[2] and known[2] ~= '' and not redis.call('ZSCORE', KEYS[2], workflow) then
    -- (Made anew: a hash that was large once stays in the form of large ones. Removing lifts the limit of full memory.)
    redis.call('UNLINK', key)
    redis.call('HSET', key, 'v', version)
    forgotten = forgotten + 1
  end
end
return forgotten
