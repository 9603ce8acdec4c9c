-- Take over tasks: those whose lease ran out ('expired'), or those pending under the caller's own name ('own').
--
-- KEYS 1 pulse  2 reports  3 cancels  4 urgent stream  5 normal stream
-- ARGV 1 mode  2 group  3 consumer  4 lease (ms)  5 free slots  6 delivery limit  7 pulse limit (us)  8.. those held: stream and entry
-- Returns {status, {stream index, entry, delivery, former owner, fields}...}; status is 'ok',
-- 'more' (there are more than free slots), 'grace' or 'nogroup'.
--
-- The lease runs only while the store runs: a poll that comes too late gives everybody one lease of grace.

if #KEYS ~= 5 or #ARGV < 7 then error('TAILRACE ' .. #KEYS .. ' keys, ' .. #ARGV .. ' arguments') end
for index, key in ipairs(KEYS) do
  local wanted = ({'hash', 'stream', 'hash'})[index] or 'stream'
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= wanted then error('TAILRACE key ' .. key .. ' is a ' .. found) end
end
local mode, group, consumer = ARGV[1], ARGV[2], ARGV[3]
local lease, free, limit, late = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
for _, value in ipairs({lease or -1, free or -1, limit or -1, late or -1}) do
  if not (value >= 0 and value % 1 == 0) then error('TAILRACE an argument is not a whole number') end
end
if mode ~= 'expired' and mode ~= 'own' then error('TAILRACE no mode ' .. mode) end
local held = {}
for index = 8, #ARGV do held[ARGV[index]] = true end

local parts = redis.call('TIME')
local now = tonumber(parts[1]) * 1000000 + tonumber(parts[2])
if mode == 'expired' then
  local grace = poll(KEYS[1], now, lease * 1000, late)
  if grace > now then return {'grace'} end
end

local function task_of(fields)
  for index = 1, #fields, 2 do
    if fields[index] == 'task' then return fields[index + 1] end
  end
  return ''
end

local function workflow_of(fields)
  for index = 1, #fields, 2 do
    if fields[index] == 'workflow' then return fields[index + 1] end
  end
  return ''
end

local function report(workflow, task, body)
  redis.call('XADD', KEYS[2], '*', 'workflow', workflow, 'task', task, 'traceparent', '', 'data', cmsgpack.pack(body))
end

local taken = {'ok'}
for index = 4, #KEYS do
  local stream = KEYS[index]
  local pending
  if mode == 'expired' then
    pending = redis.pcall('XPENDING', stream, group, 'IDLE', lease, '-', '+', 100)
  else
    pending = redis.pcall('XPENDING', stream, group, '-', '+', 1000, consumer)
  end
  if pending.err then
    taken[1] = 'nogroup'
    pending = {}
  end
  for _, item in ipairs(pending) do
    local entry, former, deliveries = item[1], item[2], item[4]
    if not held[stream .. ' ' .. entry] then
      local found = redis.call('XRANGE', stream, entry, entry)[1]
      if not found then
        redis.call('XACK', stream, group, entry)
        report('', '', {kind = 'lost', task_id = '', worker = former, message = stream .. ' ' .. entry})
      else
        local task = task_of(found[2])
        local mark = redis.call('HGET', KEYS[3], task)
        if mark then
          redis.call('XACK', stream, group, entry)
          redis.call('XDEL', stream, entry)
          redis.call('HDEL', KEYS[3], task)
          if string.find(mark, ' awaited', 1, true) then
            report(workflow_of(found[2]), task, {kind = 'stopped', task_id = task, worker = former})
          end
        elseif deliveries >= limit then
          redis.call('XACK', stream, group, entry)
          redis.call('XDEL', stream, entry)
          report(workflow_of(found[2]), task, {kind = 'poison', task_id = task, worker = former, delivery = deliveries,
            error = {reason = 'poison', message = 'delivered ' .. deliveries .. ' times without an end',
              details = {deliveries = deliveries, last_worker = former}}})
        elseif #taken <= free then
          local claimed = redis.call('XCLAIM', stream, group, consumer, 0, entry)
          if #claimed > 0 then
            taken[#taken + 1] = {index - 3, entry, deliveries + 1, former, claimed[1][2]}
          end
        elseif taken[1] == 'ok' then
          taken[1] = 'more'
        end
      end
    end
  end
end
return taken
