-- Shared by scripts that tell what was never delivered from what was delivered and is nobody's any more.

local function is_after(entry, other)
  local ms, number = string.match(entry, '^(%d+)-(%d+)$')
  local other_ms, other_number = string.match(other, '^(%d+)-(%d+)$')
  if ms ~= other_ms then return tonumber(ms) > tonumber(other_ms) end
  return tonumber(number) > tonumber(other_number)
end

-- Up to which entry a group was given its stream; nothing for a group that is not there.
local function last_delivered(stream, group)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if groups.err then return '0-0' end
  for _, found in ipairs(groups) do
    local name, last
    for index = 1, #found, 2 do
      if found[index] == 'name' then name = found[index + 1] end
      if found[index] == 'last-delivered-id' then last = found[index + 1] end
    end
    if name == group then return last end
  end
  return '0-0'
end

local function value_of(fields, name)
  for index = 1, #fields, 2 do
    if fields[index] == name then return fields[index + 1] end
  end
  return ''
end

local function tell_lost(reports, worker, workflow, task, message)
  redis.call('XADD', reports, '*', 'workflow', workflow, 'task', task, 'traceparent', '', 'data', cmsgpack.pack(
    {kind = 'lost', task_id = task, worker = worker, message = message}))
end

-- An entry that was delivered, is still there and is pending with nobody was acknowledged without a report. No one would ever
-- be given it again, so whoever had it reports it as lost. (Handed back or claimed, it is pending with somebody: the caller
-- has looked.)
local function give_up_acknowledged(stream, group, entry, worker, reports, cancels)
  local found = redis.call('XRANGE', stream, entry, entry)[1]
  if not found or is_after(entry, last_delivered(stream, group)) then return end
  local task = value_of(found[2], 'task')
  redis.call('XDEL', stream, entry)
  -- Nobody waits for a task that was closed meanwhile.
  if redis.call('HDEL', cancels, task) == 0 then
    tell_lost(reports, worker, value_of(found[2], 'workflow'), task, 'the entry was acknowledged without a report')
  end
end

