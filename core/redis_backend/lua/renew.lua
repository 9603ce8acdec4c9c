-- Renew leases: only of tasks that the caller still holds. Names those it lost, and those it must cancel.
--
-- KEYS 1 cancels  2 reports  3.. task streams
-- ARGV 1 group  2 consumer  then (stream index, entry, delivery, task) for each
-- Returns one of 'ok', 'cancel', 'lost' for each.
--
-- An entry that was delivered, is still there and is pending with nobody was acknowledged without a report. No one would ever
-- be given it again, so it is reported as lost by the one who held it. (Handed back or claimed, it is pending with somebody.)
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
end

local function value_of(fields, name)
  for index = 1, #fields, 2 do
    if fields[index] == name then return fields[index + 1] end
  end
  return ''
end

local function tell_lost(workflow, task, message)
  redis.call('XADD', KEYS[2], '*', 'workflow', workflow, 'task', task, 'traceparent', '', 'data', cmsgpack.pack(
    {kind = 'lost', task_id = task, worker = ARGV[2], message = message}))
end

local function give_up_acknowledged(stream, entry)
  local found = redis.call('XRANGE', stream, entry, entry)[1]
  if not found or is_after(entry, last_delivered(stream, ARGV[1])) then return end
  local task = value_of(found[2], 'task')
  redis.call('XDEL', stream, entry)
  -- Nobody waits for a task that was closed meanwhile.
  if redis.call('HDEL', KEYS[1], task) == 0 then
    tell_lost(value_of(found[2], 'workflow'), task, 'the entry was acknowledged without a report')
  end
end

local answers = {}
for at = 3, #ARGV, 4 do
  local stream, entry = KEYS[2 + tonumber(ARGV[at])], ARGV[at + 1]
  local pending = redis.pcall('XPENDING', stream, ARGV[1], entry, entry, 1)
  if not pending.err and #pending == 0 then
    give_up_acknowledged(stream, entry)
    answers[#answers + 1] = 'lost'
  elseif pending.err or pending[1][2] ~= ARGV[2] or tostring(pending[1][4]) ~= ARGV[at + 2] then
    answers[#answers + 1] = 'lost'
  elseif #redis.call('XRANGE', stream, entry, entry) == 0 then
    redis.call('XACK', stream, ARGV[1], entry)
    tell_lost('', '', stream .. ' ' .. entry)
    answers[#answers + 1] = 'lost'
  else
    redis.call('XCLAIM', stream, ARGV[1], ARGV[2], 0, entry, 'JUSTID')
    answers[#answers + 1] = redis.call('HEXISTS', KEYS[1], ARGV[at + 3]) == 1 and 'cancel' or 'ok'
  end
end
return answers
