-- APPEND: the only way to write. Several runs of one partition in one call; checks everything, then removes, then adds.
--
-- KEYS 1 log  2 head  3 reports  4 timers  5 expect  6 owner  7 pulse  8 cancels  9.. the runs, and then task streams
-- ARGV: see `appending.arguments`; read here by one cursor, in the same order.
-- Returns {outcome, version, seq} for each run. An error means that nothing was written for any of them.
--
-- Redis does not roll a failed script back. So nothing is written before the last check, and after the first write only
-- calls follow that can't fail on what was checked. Removing comes first: it also lifts the memory limit for the rest.

local SHARED = 8
local LIMIT = 4 * 1024 * 1024
local MOST = 2 ^ 53
-- How many values one command is given: Lua's stack does not hold all that a run may have.
local WIDTH = 1000
local at = 0

for index = 1, #ARGV do
  if #ARGV[index] > LIMIT then error('TAILRACE argument ' .. index .. ' is too large') end
end

local function text()
  at = at + 1
  local value = ARGV[at]
  if value == nil then error('TAILRACE argument ' .. at .. ' is missing') end
  return value
end

local function number()
  local value = tonumber(text())
  -- (A range, because NaN compares with nothing and Redis takes it for no score.)
  if value == nil or not (value >= 0 and value <= MOST) then error('TAILRACE argument ' .. at .. ' is not a number') end
  return value
end

local function flag()
  local value = text()
  if value ~= '0' and value ~= '1' then error('TAILRACE argument ' .. at .. ' is not 0 or 1') end
  return value == '1'
end

local epoch, owner_name, owner_epoch = text(), text(), text()
local runs, streams = number(), number()
if runs < 1 or #KEYS ~= SHARED + runs + streams then error('TAILRACE ' .. #KEYS .. ' keys for ' .. runs .. ' runs') end
if epoch == '' then error('TAILRACE no epoch') end

local function stream_key()
  local index = number()
  local key = KEYS[SHARED + runs + index]
  if index < 1 or key == nil then error('TAILRACE argument ' .. at .. ' names no stream') end
  return key
end

local function list(width, read)
  local count = number()
  if count % 1 ~= 0 or at + count * width > #ARGV then error('TAILRACE argument ' .. at .. ' counts too many') end
  local values = {}
  for i = 1, count do values[i] = read() end
  return values
end

local function read_record() return {text(), text(), text()} end
local function read_output() return {text(), text()} end
local function read_closing() return {task = text(), stream = stream_key(), group = text(), reported = flag()} end
local function read_dispatch()
  return {task = text(), stream = stream_key(), group = text(), lane = text(), trace = text(), data = text(), again = flag()}
end
local function read_timer() return {text(), number()} end

local function read_append(key)
  local run = {key = key, mode = text(), expected = number(), state = text(), created = text(), expect_at = text()}
  if run.expect_at ~= '' then
    at = at - 1
    run.expect_at = number()
  end
  run.workflow, run.timer, run.timer_due = text(), text(), text()
  run.reports = list(1, text)
  run.records = list(3, read_record)
  run.outputs = list(2, read_output)
  run.closings = list(4, read_closing)
  run.dispatches = list(7, read_dispatch)
  run.timers_set = list(2, read_timer)
  run.timers_cleared = list(1, text)
  if run.mode ~= 'create' and run.mode ~= 'append' and run.mode ~= 'rehydrate' then error('TAILRACE no mode ' .. run.mode) end
  local written = #run.records + #run.outputs + #run.closings + #run.dispatches + #run.timers_set
  if run.state == '' and (run.mode == 'rehydrate' or written > 0) then error('TAILRACE what is written needs a state') end
  if #run.records == 0 and run.mode == 'create' then error('TAILRACE a run begins with a record') end
  if run.timer ~= '' and tonumber(run.timer_due) == nil then error('TAILRACE the timer has no due time') end
  return run
end

local appends = {}
for index = 1, runs do
  appends[index] = read_append(KEYS[SHARED + index])
  -- At full memory new runs are refused and open ones go on: one call is for the ones or for the others.
  if (appends[index].mode == 'create') ~= (appends[1].mode == 'create') then error('TAILRACE creations go by themselves') end
end
if at ~= #ARGV then error('TAILRACE ' .. #ARGV .. ' arguments, ' .. at .. ' expected') end

local TYPES = {'stream', 'hash', 'stream', 'zset', 'zset', 'hash', 'hash', 'hash'}
for index, key in ipairs(KEYS) do
  local found = redis.call('TYPE', key).ok
  local kind = TYPES[index] or (index <= SHARED + runs and 'hash' or 'stream')
  if found ~= 'none' and found ~= kind then error('TAILRACE key ' .. key .. ' is a ' .. found) end
end

local outcomes = {}
local function all(outcome, seq)
  for index = 1, runs do outcomes[index] = {outcome, 0, seq} end
  return outcomes
end

local head = redis.call('HMGET', KEYS[2], 'seq', 'epoch')
-- Another log than the one the caller joined, or none: Redis was emptied under it. What it decided is about something else.
if head[2] ~= epoch then return all('diverged', 0) end
local seq = tonumber(head[1] or '')
if seq == nil then error('TAILRACE key ' .. KEYS[2] .. ' has no seq') end

local now
local function time()
  if now == nil then
    local parts = redis.call('TIME')
    now = tonumber(parts[1]) * 1000000 + tonumber(parts[2])
  end
  return now
end

if owner_name ~= '' then
  local owner = redis.call('HMGET', KEYS[6], 'name', 'epoch', 'until')
  if owner[1] ~= owner_name or owner[2] ~= owner_epoch or tonumber(owner[3] or '0') <= time() then
    return all('not-owner', seq)
  end
end

-- Each run, report and timer once in a call: what is checked here is what is true when it is written.
local seen = {}
local function once(name)
  if seen[name] then error('TAILRACE ' .. name .. ' comes twice') end
  seen[name] = true
end

-- Why the run can't be written, or nothing; and the version that it is at.
local function refusal(run)
  once('run ' .. run.key)
  for _, id in ipairs(run.reports) do
    once('report ' .. id)
    local found = redis.call('XRANGE', KEYS[3], id, id)[1]
    if not found or found[1] ~= id then return 'gone', 0 end
  end
  if run.timer ~= '' then
    once('timer ' .. run.timer)
    local due = redis.call('ZSCORE', KEYS[4], run.timer)
    if not due or tonumber(due) ~= tonumber(run.timer_due) then return 'gone', 0 end
    -- A report that was there before the timer was due goes first: finished work must not time out.
    local oldest = redis.call('XRANGE', KEYS[3], '-', '+', 'COUNT', 1)[1]
    if oldest and tonumber(string.match(oldest[1], '^%d+')) <= math.floor(tonumber(run.timer_due) / 1000) then
      return 'wait', 0
    end
    if tonumber(redis.call('HGET', KEYS[7], 'grace_until') or '0') > time() then return 'wait', 0 end
  end
  local known = redis.call('HMGET', run.key, 'v', 's')
  local version = tonumber(known[1] or '0')
  local present = known[2] and known[2] ~= ''
  if run.mode == 'create' then
    if known[1] then return 'exists', version end
  elseif run.mode == 'rehydrate' then
    if present then return 'exists', version end
    if known[1] and version ~= run.expected then return 'conflict', version end
  elseif not present then
    return 'missing', version
  elseif version ~= run.expected then
    return 'conflict', version
  end
  return nil, version
end

local accepted = {}
for index, run in ipairs(appends) do
  local refused, version = refusal(run)
  outcomes[index] = {refused or 'ok', version, seq}
  if not refused then
    run.outcome = outcomes[index]
    accepted[#accepted + 1] = run
  end
end
if #accepted == 0 then return outcomes end

-- From here on it is written. First what is removed.

local function add(values, value) values[#values + 1] = value end

local function each(command, key, values)
  for first = 1, #values, WIDTH do
    redis.call(command, key, unpack(values, first, math.min(first + WIDTH - 1, #values)))
  end
end

local reports, timers, expected = {}, {}, {}
for _, run in ipairs(accepted) do
  -- Also a timer without a name: a call of this kind lifts the limit of full memory for runs that are open already.
  if run.mode ~= 'create' then add(timers, run.timer) end
  for _, id in ipairs(run.reports) do add(reports, id) end
  if run.state ~= '' then
    for _, name in ipairs(run.timers_cleared) do add(timers, name) end
    if run.expect_at == '' then add(expected, run.workflow) end
  end
end
each('ZREM', KEYS[4], timers)
each('XDEL', KEYS[3], reports)
each('ZREM', KEYS[5], expected)

local function entry_of(run, task)
  local place = redis.call('HGET', run.key, 't:' .. task)
  return place and string.match(place, '(%d+%-%d+)$')
end

for _, run in ipairs(accepted) do
  local closed = {}
  for _, closing in ipairs(run.closings) do
    -- (A reported one has left its stream with its report.)
    local entry = not closing.reported and entry_of(run, closing.task)
    if entry then
      local pending = redis.pcall('XPENDING', closing.stream, closing.group, entry, entry, 1)
      if not pending.err and #pending > 0 then
        redis.call('HSET', KEYS[8], closing.task, entry)
      else
        redis.call('XACK', closing.stream, closing.group, entry)
        redis.call('XDEL', closing.stream, entry)
      end
    end
    add(closed, 't:' .. closing.task)
  end
  each('HDEL', run.key, closed)
  for _, dispatch in ipairs(run.dispatches) do
    local entry = dispatch.again and entry_of(run, dispatch.task)
    if entry then
      redis.call('XACK', dispatch.stream, dispatch.group, entry)
      redis.call('XDEL', dispatch.stream, entry)
    end
  end
end

-- Then what is added.

local timers_set, expectations = {}, {}
for _, run in ipairs(accepted) do
  if run.state ~= '' then
    local version = run.mode == 'create' and 0 or run.expected
    for _, record in ipairs(run.records) do
      version = version + 1
      seq = seq + 1
      redis.call('XADD', KEYS[1], '*', 'type', record[1], 'workflow', run.workflow, 'version', version, 'seq', seq,
        'traceparent', record[2], 'data', record[3])
    end
    local fields = {'v', version, 's', run.state}
    if run.created ~= '' then
      add(fields, 'in')
      add(fields, run.created)
    end
    for _, output in ipairs(run.outputs) do
      add(fields, 'o:' .. output[1])
      add(fields, output[2])
    end
    for _, dispatch in ipairs(run.dispatches) do
      local id = redis.call('XADD', dispatch.stream, '*', 'task', dispatch.task, 'workflow', run.workflow,
        'traceparent', dispatch.trace, 'data', dispatch.data)
      add(fields, 't:' .. dispatch.task)
      add(fields, dispatch.group .. ' ' .. dispatch.lane .. ' ' .. id)
    end
    each('HSET', run.key, fields)
    for _, set in ipairs(run.timers_set) do
      add(timers_set, set[2])
      add(timers_set, set[1])
    end
    if run.expect_at ~= '' then
      add(expectations, run.expect_at)
      add(expectations, run.workflow)
    end
    run.outcome[2], run.outcome[3] = version, seq
  end
end
redis.call('HSET', KEYS[2], 'seq', seq)
each('ZADD', KEYS[4], timers_set)
each('ZADD', KEYS[5], expectations)
return outcomes
