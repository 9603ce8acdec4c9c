-- APPEND: the only way to write. Checks everything, then removes, then adds.
--
-- KEYS 1 log  2 head  3 workflow  4 reports  5 timers  6 expect  7 owner  8 pulse  9 cancels  10.. task streams
-- ARGV: see `store._append_arguments`; read here by one cursor, in the same order.
-- Returns {outcome, version, seq}.
--
-- Redis does not roll a failed script back. So nothing is written before the last check, and after the first write only
-- calls follow that can't fail on what was checked. Removing comes first: it also lifts the memory limit for the rest.

local LIMIT = 4 * 1024 * 1024
local MOST = 2 ^ 53
local at = 0

local function text()
  at = at + 1
  local value = ARGV[at]
  if value == nil then error('TAILRACE argument ' .. at .. ' is missing') end
  if #value > LIMIT then error('TAILRACE argument ' .. at .. ' is too large') end
  return value
end

local function number()
  local value = tonumber(text())
  -- (A range, because NaN compares with nothing and Redis takes it for no score.)
  if value == nil or not (value >= 0 and value <= MOST) then error('TAILRACE argument ' .. at .. ' is not a number') end
  return value
end

local function stream_key()
  local index = number()
  local key = KEYS[9 + index]
  if index < 1 or key == nil then error('TAILRACE argument ' .. at .. ' names no stream') end
  return key
end

local function flag()
  local value = text()
  if value ~= '0' and value ~= '1' then error('TAILRACE argument ' .. at .. ' is not 0 or 1') end
  return value
end

local function list(width, read)
  local count = number()
  if count % 1 ~= 0 or at + count * width > #ARGV then error('TAILRACE argument ' .. at .. ' counts too many') end
  local values = {}
  for i = 1, count do values[i] = read() end
  return values
end

local epoch = text()
local mode = text()
local expected = number()
local state = text()
local created = text()
local expect_at = text()
if expect_at ~= '' then
  at = at - 1
  expect_at = number()
end
local workflow_id = text()
local owner_name, owner_epoch = text(), text()
local timer, timer_due = text(), text()
local reports = list(1, text)
local records = list(3, function() return {text(), text(), text()} end)
local outputs = list(2, function() return {text(), text()} end)
local closings = list(4, function() return {text(), stream_key(), text(), flag()} end)
local dispatches = list(6, function() return {text(), stream_key(), text(), text(), text(), text()} end)
local timers_set = list(2, function() return {text(), number()} end)
local timers_cleared = list(1, text)
if at ~= #ARGV then error('TAILRACE ' .. #ARGV .. ' arguments, ' .. at .. ' expected') end
if mode ~= 'create' and mode ~= 'append' and mode ~= 'rehydrate' then error('TAILRACE no mode ' .. mode) end
if epoch == '' then error('TAILRACE no epoch') end
if state == '' and (mode == 'rehydrate' or #records + #outputs + #closings + #dispatches + #timers_set > 0) then
  error('TAILRACE what is written needs a state')
end
if #records == 0 and mode == 'create' then error('TAILRACE a run begins with a record') end
if timer ~= '' and tonumber(timer_due) == nil then error('TAILRACE the timer has no due time') end

local TYPES = {'stream', 'hash', 'hash', 'stream', 'zset', 'zset', 'hash', 'hash', 'hash'}
if #KEYS < 9 then error('TAILRACE ' .. #KEYS .. ' keys') end
for index, key in ipairs(KEYS) do
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= (TYPES[index] or 'stream') then
    error('TAILRACE key ' .. key .. ' is a ' .. found)
  end
end
local head = redis.call('HMGET', KEYS[2], 'seq', 'epoch')
-- Another log than the one the caller joined, or none: Redis was emptied under it. What it decided is about something else.
if head[2] ~= epoch then return {'diverged', 0, 0} end
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
  local owner = redis.call('HMGET', KEYS[7], 'name', 'epoch', 'until')
  if owner[1] ~= owner_name or owner[2] ~= owner_epoch or tonumber(owner[3] or '0') <= time() then
    return {'not-owner', 0, seq}
  end
end
for _, id in ipairs(reports) do
  local found = redis.call('XRANGE', KEYS[4], id, id)[1]
  if not found or found[1] ~= id then return {'gone', 0, seq} end
end
if timer ~= '' then
  local due = redis.call('ZSCORE', KEYS[5], timer)
  if not due or tonumber(due) ~= tonumber(timer_due) then return {'gone', 0, seq} end
  -- A report that was there before the timer was due goes first: finished work must not time out.
  local oldest = redis.call('XRANGE', KEYS[4], '-', '+', 'COUNT', 1)[1]
  if oldest and tonumber(string.match(oldest[1], '^%d+')) <= math.floor(tonumber(timer_due) / 1000) then
    return {'wait', 0, seq}
  end
  if tonumber(redis.call('HGET', KEYS[8], 'grace_until') or '0') > time() then return {'wait', 0, seq} end
end

local known = redis.call('HMGET', KEYS[3], 'v', 's')
local version = tonumber(known[1] or '0')
local present = known[2] and known[2] ~= ''
if mode == 'create' then
  if known[1] then return {'exists', version, seq} end
elseif mode == 'rehydrate' then
  if present then return {'exists', version, seq} end
  if known[1] and version ~= expected then return {'conflict', version, seq} end
elseif not present then
  return {'missing', version, seq}
elseif version ~= expected then
  return {'conflict', version, seq}
end

-- From here on it is written. First what is removed.

-- Also with nothing to remove: a call of this kind lifts the limit of full memory for a run that is open already.
if mode ~= 'create' then redis.call('ZREM', KEYS[5], timer) end
for _, id in ipairs(reports) do redis.call('XDEL', KEYS[4], id) end
if state == '' then return {'ok', version, seq} end

for _, name in ipairs(timers_cleared) do redis.call('ZREM', KEYS[5], name) end
if expect_at == '' then redis.call('ZREM', KEYS[6], workflow_id) end

local function entry_of(task)
  local place = redis.call('HGET', KEYS[3], 't:' .. task)
  return place and string.match(place, '(%d+%-%d+)$')
end

for _, closing in ipairs(closings) do
  local task, stream, group, reported = closing[1], closing[2], closing[3], closing[4]
  local entry = entry_of(task)
  if entry and reported ~= '1' then
    local pending = redis.pcall('XPENDING', stream, group, entry, entry, 1)
    if not pending.err and #pending > 0 then
      redis.call('HSET', KEYS[9], task, entry)
    else
      redis.call('XACK', stream, group, entry)
      redis.call('XDEL', stream, entry)
    end
  end
  redis.call('HDEL', KEYS[3], 't:' .. task)
end
for _, dispatch in ipairs(dispatches) do
  local entry = entry_of(dispatch[1])
  if entry then
    redis.call('XACK', dispatch[2], dispatch[3], entry)
    redis.call('XDEL', dispatch[2], entry)
  end
end

-- Then what is added.

version = (mode == 'create') and 0 or expected
for _, record in ipairs(records) do
  version = version + 1
  seq = seq + 1
  redis.call('XADD', KEYS[1], '*', 'type', record[1], 'workflow', workflow_id, 'version', version, 'seq', seq,
    'traceparent', record[2], 'data', record[3])
end
redis.call('HSET', KEYS[2], 'seq', seq)
redis.call('HSET', KEYS[3], 'v', version, 's', state)
if created ~= '' then redis.call('HSET', KEYS[3], 'in', created) end
for _, output in ipairs(outputs) do redis.call('HSET', KEYS[3], 'o:' .. output[1], output[2]) end
for _, dispatch in ipairs(dispatches) do
  local id = redis.call('XADD', dispatch[2], '*', 'task', dispatch[1], 'workflow', workflow_id,
    'traceparent', dispatch[5], 'data', dispatch[6])
  redis.call('HSET', KEYS[3], 't:' .. dispatch[1], dispatch[3] .. ' ' .. dispatch[4] .. ' ' .. id)
end
for _, set in ipairs(timers_set) do redis.call('ZADD', KEYS[5], set[2], set[1]) end
if expect_at ~= '' then redis.call('ZADD', KEYS[6], expect_at, workflow_id) end
return {'ok', version, seq}
