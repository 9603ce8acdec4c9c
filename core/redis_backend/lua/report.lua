-- A worker's reports to one partition. Each counts only from the one who holds the task now: same consumer, same delivery.
--
-- KEYS 1 reports  2 cancels  3.. task streams
-- ARGV 1 group  2 consumer  3 how many streams, then for each report:
--      stream  entry  delivery  final ('1' or '0')  task  workflow  traceparent  data
-- Returns 'ok' or 'lost' for each. A final report removes the task in the same step; after it no other one about it counts.
-- An error means that nothing was written for any of them.

local WIDTH = 8
local streams = tonumber(ARGV[3] or '')
if not streams or streams < 1 or #KEYS ~= 2 + streams then error('TAILRACE ' .. #KEYS .. ' keys') end
if #ARGV < 3 + WIDTH or #ARGV > 3 + 100 * WIDTH or (#ARGV - 3) % WIDTH ~= 0 then error('TAILRACE ' .. #ARGV .. ' arguments') end
for index, key in ipairs(KEYS) do
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= (index == 2 and 'hash' or 'stream') then error('TAILRACE key ' .. key .. ' is a ' .. found) end
end
local group, consumer = ARGV[1], ARGV[2]

local reports = {}
for at = 4, #ARGV, WIDTH do
  local stream = KEYS[2 + (tonumber(ARGV[at]) or 0)]
  if not stream or stream == KEYS[1] or stream == KEYS[2] then error('TAILRACE argument ' .. at .. ' names no stream') end
  if not string.match(ARGV[at + 1], '^%d+%-%d+$') then error('TAILRACE entry is ' .. ARGV[at + 1]) end
  if not string.match(ARGV[at + 2], '^%d+$') then error('TAILRACE delivery is ' .. ARGV[at + 2]) end
  if ARGV[at + 3] ~= '0' and ARGV[at + 3] ~= '1' then error('TAILRACE final is ' .. ARGV[at + 3]) end
  reports[#reports + 1] = {stream = stream, entry = ARGV[at + 1], delivery = ARGV[at + 2], final = ARGV[at + 3] == '1',
    task = ARGV[at + 4], workflow = ARGV[at + 5], trace = ARGV[at + 6], data = ARGV[at + 7]}
end

-- Whose entry it is: asked once, and before anything is written.
local held = {}
local function holds(report)
  local name = report.stream .. ' ' .. report.entry
  if held[name] == nil then
    local pending = redis.pcall('XPENDING', report.stream, group, report.entry, report.entry, 1)
    held[name] = {missing = not pending.err and #pending == 0}
    if not pending.err and #pending > 0 and pending[1][1] == report.entry and pending[1][2] == consumer then
      held[name].delivery = tostring(pending[1][4])
    end
  end
  return held[name]
end
for _, report in ipairs(reports) do report.held = holds(report) end

-- From here on it is written. First what is removed: that also lifts the limit of full memory for the rest.

local answers, accepted, ended, tasks = {}, {}, {}, {}
for index, report in ipairs(reports) do
  local is_held = report.held.delivery == report.delivery and not report.held.ended
  answers[index] = is_held and 'ok' or 'lost'
  if is_held then
    accepted[#accepted + 1] = report
    if report.final then
      report.held.ended = true
      ended[report.stream] = ended[report.stream] or {}
      table.insert(ended[report.stream], report.entry)
      tasks[#tasks + 1] = report.task
    end
  elseif report.held.missing then
    -- Who is told that the task is lost forgets it, and would not find at a renewal that nobody has it.
    give_up_acknowledged(report.stream, group, report.entry, consumer, KEYS[1], KEYS[2])
  end
end
for stream, entries in pairs(ended) do
  redis.call('XACK', stream, group, unpack(entries))
  redis.call('XDEL', stream, unpack(entries))
end
if #tasks > 0 then redis.call('HDEL', KEYS[2], unpack(tasks)) end
for _, report in ipairs(accepted) do
  redis.call('XADD', KEYS[1], '*', 'workflow', report.workflow, 'task', report.task, 'traceparent', report.trace,
    'data', report.data)
end
return answers
