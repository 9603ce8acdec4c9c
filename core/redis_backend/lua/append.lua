-- APPEND: the only way to write. Several runs of one partition in one call; checks everything, then removes, then adds.
--
-- KEYS 1 log  2 head  3 reports  4 timers  5 expect  6 owner  7 pulse  8 cancels  9.. the runs, and then task streams
-- ARGV: see `appending`; read here by one cursor, in the same order.
-- Returns {outcome, version, seq} for each run. An error means that nothing was written for any of them.
--
-- Redis does not roll a failed script back. So nothing is written before the last check, and after the first write only
-- calls follow that can't fail on what was checked. Removing comes first: it also lifts the memory limit for the rest.

-- (A local is found at once, a global by its name each time.)
local ARGV, KEYS, call = ARGV, KEYS, redis.call

local SHARED = 8
local LIMIT = 4 * 1024 * 1024
local MOST = 2 ^ 53
-- How many values one command is given: Lua's stack does not hold all that a run may have.
local WIDTH = 1000

for index = 1, #ARGV do
  if #ARGV[index] > LIMIT then error('TAILRACE argument ' .. index .. ' is too large') end
end

-- (Most numbers come again and again: looking one up costs less than reading it.)
local numbers = {}

local function number(index)
  local text = ARGV[index] or ''
  local value = numbers[text]
  if value == nil then
    value = tonumber(text)
    -- (A range, because NaN compares with nothing and Redis takes it for no score.)
    if value == nil or not (value >= 0 and value <= MOST) then error('TAILRACE argument ' .. index .. ' is not a number') end
    numbers[text] = value
  end
  return value
end

local function check_flag(index)
  if ARGV[index] ~= '0' and ARGV[index] ~= '1' then error('TAILRACE argument ' .. index .. ' is not 0 or 1') end
end

-- How a task ends: '1' by its own report, '0' otherwise, '2' otherwise and its end is awaited (then the store tells it).
local function check_manner(index)
  local manner = ARGV[index]
  if manner ~= '0' and manner ~= '1' and manner ~= '2' then error('TAILRACE argument ' .. index .. ' is not 0, 1 or 2') end
end

if #ARGV < 6 then error('TAILRACE ' .. #ARGV .. ' arguments') end
local epoch, owner_name, owner_epoch = ARGV[1], ARGV[2], ARGV[3]
local runs, streams = number(4), number(5)
if runs < 1 or #KEYS ~= SHARED + runs + streams then error('TAILRACE ' .. #KEYS .. ' keys for ' .. runs .. ' runs') end
if epoch == '' then error('TAILRACE no epoch') end

local at = 6 + 2 * streams
if at > #ARGV then error('TAILRACE ' .. #ARGV .. ' arguments') end

-- The task streams, by their number as it comes in arguments: its key, its group, and what is kept of a task before its entry.
local lanes = {}
for index = 1, streams do
  local group, lane = ARGV[4 + 2 * index], ARGV[5 + 2 * index]
  lanes[tostring(index)] = {key = KEYS[SHARED + runs + index], group = group, place = group .. ' ' .. lane .. ' '}
end

local function check_stream(index)
  if lanes[ARGV[index]] == nil then error('TAILRACE argument ' .. index .. ' names no stream') end
end

-- How many of each list a run has, in one argument; here, how many arguments each list takes. Most runs of a call are alike.
local WIDTHS = {1, 3, 2, 3, 5, 2, 1}
local shapes = {}

local function shape(index)
  local text = ARGV[index]
  local sizes = shapes[text]
  if sizes == nil then
    sizes = {string.match(text, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')}
    if #sizes ~= #WIDTHS then error('TAILRACE argument ' .. index .. ' is no list of counts') end
    for list, width in ipairs(WIDTHS) do sizes[list] = sizes[list] * width end
    shapes[text] = sizes
  end
  return sizes
end

-- A run, from its place in ARGV. The items of its lists stay where they are: copying them into tables costs more than all
-- that is written. Each list begins where the one before it ends.
local function read_append(key)
  if at + 8 > #ARGV then error('TAILRACE ' .. #ARGV .. ' arguments') end
  local sizes = shape(at + 8)
  local reports = at + 9
  local records = reports + sizes[1]
  local outputs = records + sizes[2]
  local closings = outputs + sizes[3]
  local dispatches = closings + sizes[4]
  local timers_set = dispatches + sizes[5]
  local timers_cleared = timers_set + sizes[6]
  local behind = timers_cleared + sizes[7]
  if behind > #ARGV + 1 then error('TAILRACE argument ' .. (at + 8) .. ' counts too many') end
  -- (All of its fields at once, and in their number: a table that grows is made anew.)
  local run = {key = key, mode = ARGV[at], expected = number(at + 1), state = ARGV[at + 2], created = ARGV[at + 3],
    expect_at = ARGV[at + 4], workflow = ARGV[at + 5], timer = ARGV[at + 6], timer_due = ARGV[at + 7],
    reports = reports, records = records, outputs = outputs, closings = closings, dispatches = dispatches,
    timers_set = timers_set, timers_cleared = timers_cleared, behind = behind}
  if run.expect_at ~= '' then number(at + 4) end
  for index = closings, dispatches - 1, 3 do
    check_stream(index + 1)
    check_manner(index + 2)
  end
  for index = dispatches, timers_set - 1, 5 do
    check_stream(index + 1)
    check_flag(index + 4)
  end
  for index = timers_set, timers_cleared - 1, 2 do number(index + 1) end
  if run.mode ~= 'create' and run.mode ~= 'append' and run.mode ~= 'rehydrate' then error('TAILRACE no mode ' .. run.mode) end
  if run.state == '' and (run.mode == 'rehydrate' or records < timers_cleared) then
    error('TAILRACE what is written needs a state')
  end
  if records == outputs and run.mode == 'create' then error('TAILRACE a run begins with a record') end
  if run.timer ~= '' and tonumber(run.timer_due) == nil then error('TAILRACE the timer has no due time') end
  at = behind
  return run
end

local appends = {}
for index = 1, runs do
  appends[index] = read_append(KEYS[SHARED + index])
  -- At full memory new runs are refused and open ones go on: one call is for the ones or for the others.
  if (appends[index].mode == 'create') ~= (appends[1].mode == 'create') then error('TAILRACE creations go by themselves') end
end
if at ~= #ARGV + 1 then error('TAILRACE ' .. #ARGV .. ' arguments, ' .. (at - 1) .. ' expected') end

-- (That of a run is seen when its version is read.)
local TYPES = {'stream', 'hash', 'stream', 'zset', 'zset', 'hash', 'hash', 'hash'}
for index, key in ipairs(KEYS) do
  if index <= SHARED or index > SHARED + runs then
    local found = call('TYPE', key).ok
    if found ~= 'none' and found ~= (TYPES[index] or 'stream') then error('TAILRACE key ' .. key .. ' is a ' .. found) end
  end
end

local outcomes = {}
local function all(outcome, seq)
  for index = 1, runs do outcomes[index] = {outcome, 0, seq} end
  return outcomes
end

local head = call('HMGET', KEYS[2], 'seq', 'epoch')
-- Another log than the one the caller joined, or none: Redis was emptied under it. What it decided is about something else.
if head[2] ~= epoch then return all('diverged', 0) end
local seq = tonumber(head[1] or '')
if seq == nil then error('TAILRACE key ' .. KEYS[2] .. ' has no seq') end

local now
local function time()
  if now == nil then
    local parts = call('TIME')
    now = tonumber(parts[1]) * 1000000 + tonumber(parts[2])
  end
  return now
end

if owner_name ~= '' then
  local owner = call('HMGET', KEYS[6], 'name', 'epoch', 'until')
  if owner[1] ~= owner_name or owner[2] ~= owner_epoch or tonumber(owner[3] or '0') <= time() then
    return all('not-owner', seq)
  end
end

-- Each run, report and timer once in a call: what is checked here is what is true when it is written.
local seen = {run = {}, report = {}, timer = {}}
local function once(kind, name)
  if seen[kind][name] then error('TAILRACE ' .. kind .. ' ' .. name .. ' comes twice') end
  seen[kind][name] = true
end

local function has_lost_a_report(run)
  for index = run.reports, run.records - 1 do
    local found = call('XRANGE', KEYS[3], ARGV[index], ARGV[index])[1]
    if not found or found[1] ~= ARGV[index] then return true end
  end
  return false
end

-- Why the run can't be written, or nothing; and the version that it is at.
local function conflict(run)
  if run.timer ~= '' then
    once('timer', run.timer)
    local due = call('ZSCORE', KEYS[4], run.timer)
    if not due or tonumber(due) ~= tonumber(run.timer_due) then return 'gone', 0 end
    -- A report that was there before the timer was due goes first: finished work must not time out.
    local oldest = call('XRANGE', KEYS[3], '-', '+', 'COUNT', 1)[1]
    if oldest and tonumber(string.match(oldest[1], '^%d+')) <= math.floor(tonumber(run.timer_due) / 1000) then
      return 'wait', 0
    end
    if tonumber(call('HGET', KEYS[7], 'grace_until') or '0') > time() then return 'wait', 0 end
  end
  local known = redis.pcall('HMGET', run.key, 'v', 's')
  if known.err then error('TAILRACE key ' .. run.key .. ' is a ' .. call('TYPE', run.key).ok) end
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

-- As `conflict`, and 'gone' before everything else where a report is not there any more. A single one is not looked for:
-- whether it was there its removal says, which is the first that is written.
local function refusal(run)
  once('run', run.key)
  for index = run.reports, run.records - 1 do once('report', ARGV[index]) end
  local has_one = run.records - run.reports == 1
  if not has_one and has_lost_a_report(run) then return 'gone', 0 end
  local refused, version = conflict(run)
  if refused and has_one and has_lost_a_report(run) then return 'gone', 0 end
  return refused, version
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

-- From here on it is written. First what is removed, and of that first the reports.

do
  local whole = {}
  for _, run in ipairs(accepted) do
    if run.records - run.reports == 1 and call('XDEL', KEYS[3], ARGV[run.reports]) == 0 then
      run.outcome[1], run.outcome[2] = 'gone', 0
    else
      whole[#whole + 1] = run
    end
  end
  accepted = whole
end
if #accepted == 0 then return outcomes end

local function add(values, value) values[#values + 1] = value end

local function each(command, key, values)
  for first = 1, #values, WIDTH do
    call(command, key, unpack(values, first, math.min(first + WIDTH - 1, #values)))
  end
end

local reports, timers, expected = {}, {}, {}
for _, run in ipairs(accepted) do
  -- Also a timer without a name: a call of this kind lifts the limit of full memory for runs that are open already.
  if run.mode ~= 'create' then add(timers, run.timer) end
  if run.records - run.reports > 1 then
    for index = run.reports, run.records - 1 do add(reports, ARGV[index]) end
  end
  if run.state ~= '' then
    for index = run.timers_cleared, run.behind - 1 do add(timers, ARGV[index]) end
    if run.expect_at == '' then add(expected, run.workflow) end
  end
end
each('ZREM', KEYS[4], timers)
each('XDEL', KEYS[3], reports)
each('ZREM', KEYS[5], expected)

local function entry_of(run, task)
  local place = call('HGET', run.key, 't:' .. task)
  return place and string.match(place, '(%d+%-%d+)$')
end

local stopped = {}
for _, run in ipairs(accepted) do
  local closed = {}
  for index = run.closings, run.dispatches - 1, 3 do
    local task, lane, ends = ARGV[index], lanes[ARGV[index + 1]], ARGV[index + 2]
    -- (A reported one has left its stream with its report.)
    local entry = ends ~= '1' and entry_of(run, task)
    if entry then
      local pending = redis.pcall('XPENDING', lane.key, lane.group, entry, entry, 1)
      if not pending.err and #pending > 0 then
        call('HSET', KEYS[8], task, ends == '2' and entry .. ' awaited' or entry)
      else
        call('XACK', lane.key, lane.group, entry)
        call('XDEL', lane.key, entry)
        if ends == '2' then add(stopped, {workflow = run.workflow, task = task}) end
      end
    end
    add(closed, 't:' .. task)
  end
  each('HDEL', run.key, closed)
  for index = run.dispatches, run.timers_set - 1, 5 do
    local lane = lanes[ARGV[index + 1]]
    local entry = ARGV[index + 4] == '1' and entry_of(run, ARGV[index])
    if entry then
      call('XACK', lane.key, lane.group, entry)
      call('XDEL', lane.key, entry)
    end
  end
end

-- Then what is added.

local timers_set, expectations = {}, {}
for _, run in ipairs(accepted) do
  if run.state ~= '' then
    local version = run.mode == 'create' and 0 or run.expected
    for index = run.records, run.outputs - 1, 3 do
      version = version + 1
      seq = seq + 1
      call('XADD', KEYS[1], '*', 'type', ARGV[index], 'workflow', run.workflow, 'version', version, 'seq', seq,
        'traceparent', ARGV[index + 1], 'data', ARGV[index + 2])
    end
    local fields = {'v', version, 's', run.state}
    if run.created ~= '' then
      add(fields, 'in')
      add(fields, run.created)
    end
    for index = run.outputs, run.closings - 1, 2 do
      add(fields, 'o:' .. ARGV[index])
      add(fields, ARGV[index + 1])
    end
    for index = run.dispatches, run.timers_set - 1, 5 do
      local lane = lanes[ARGV[index + 1]]
      local id = call('XADD', lane.key, '*', 'task', ARGV[index], 'workflow', run.workflow,
        'traceparent', ARGV[index + 2], 'data', ARGV[index + 3])
      add(fields, 't:' .. ARGV[index])
      add(fields, lane.place .. id)
    end
    each('HSET', run.key, fields)
    for index = run.timers_set, run.timers_cleared - 1, 2 do
      add(timers_set, ARGV[index + 1])
      add(timers_set, ARGV[index])
    end
    if run.expect_at ~= '' then
      add(expectations, run.expect_at)
      add(expectations, run.workflow)
    end
    run.outcome[2], run.outcome[3] = version, seq
  end
end
for _, task in ipairs(stopped) do
  call('XADD', KEYS[3], '*', 'workflow', task.workflow, 'task', task.task, 'traceparent', '',
    'data', cmsgpack.pack({kind = 'stopped', task_id = task.task}))
end
call('HSET', KEYS[2], 'seq', seq)
each('ZADD', KEYS[4], timers_set)
each('ZADD', KEYS[5], expectations)
return outcomes
