-- Renew leases: only of tasks that the caller still holds. Names those it lost, and those it must cancel.
--
-- KEYS 1 cancels  2 reports  3.. task streams
-- ARGV 1 group  2 consumer  then (stream index, entry, delivery, task) for each
-- Returns one of 'ok', 'cancel', 'lost' for each.
--
-- Claiming an entry that is gone makes the server forget who held it; so that is looked for first, and reported.

if #ARGV < 2 or (#ARGV - 2) % 4 ~= 0 then error('TAILRACE ' .. #ARGV .. ' arguments') end
for index, key in ipairs(KEYS) do
  local wanted = index == 1 and 'hash' or 'stream'
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= wanted then error('TAILRACE key ' .. key .. ' is a ' .. found) end
end
for at = 3, #ARGV, 4 do
  local index = tonumber(ARGV[at])
  if not index or index < 1 or not KEYS[2 + index] then error('TAILRACE argument ' .. at .. ' names no stream') end
  if not string.match(ARGV[at + 2], '^%d+$') then error('TAILRACE argument ' .. at + 2 .. ' is no delivery') end
end
local answers = {}
for at = 3, #ARGV, 4 do
  local stream, entry = KEYS[2 + tonumber(ARGV[at])], ARGV[at + 1]
  local pending = redis.pcall('XPENDING', stream, ARGV[1], entry, entry, 1)
  if not pending.err and #pending == 0 then
    give_up_acknowledged(stream, ARGV[1], entry, ARGV[2], KEYS[2], KEYS[1])
    answers[#answers + 1] = 'lost'
  elseif pending.err or pending[1][2] ~= ARGV[2] or tostring(pending[1][4]) ~= ARGV[at + 2] then
    answers[#answers + 1] = 'lost'
  elseif #redis.call('XRANGE', stream, entry, entry) == 0 then
    redis.call('XACK', stream, ARGV[1], entry)
    tell_lost(KEYS[2], ARGV[2], '', '', stream .. ' ' .. entry)
    answers[#answers + 1] = 'lost'
  else
    redis.call('XCLAIM', stream, ARGV[1], ARGV[2], 0, entry, 'JUSTID')
    answers[#answers + 1] = redis.call('HEXISTS', KEYS[1], ARGV[at + 3]) == 1 and 'cancel' or 'ok'
  end
end
return answers
