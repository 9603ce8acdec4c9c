-- A worker's reports to one partition. Each counts only from the one who holds the task now: same consumer, same delivery.
--
-- KEYS 1 reports  2 cancels  3.. task streams
-- ARGV 1 group  2 consumer  3 how many streams, then for each report:
--      stream  entry  delivery  final ('1' or '0')  task  workflow  traceparent  data
-- Returns 'ok' or 'lost' for each. A final report removes the task in the same step; after it no other one about it counts.
-- An error means that nothing was written for any of them.

local ARGV, KEYS, call, match = ARGV, KEYS, redis.call, string.match

local WIDTH = 8
local streams = tonumber(ARGV[3] or '')
if not streams or streams < 1 or #KEYS ~= 2 + streams then error('TAILRACE ' .. #KEYS .. ' keys') end
if #ARGV < 3 + WIDTH or #ARGV > 3 + 100 * WIDTH or (#ARGV - 3) % WIDTH ~= 0 then error('TAILRACE ' .. #ARGV .. ' arguments') end
for index, key in ipairs(KEYS) do
  local found = call('TYPE', key).ok
  if found ~= 'none' and found ~= (index == 2 and 'hash' or 'stream') then error('TAILRACE key ' .. key .. ' is a ' .. found) end
end
local group, consumer = ARGV[1], ARGV[2]

-- The streams by their number as it comes in arguments; for each, what is asked about it.
local lanes = {}
for index = 1, streams do
  local key = KEYS[2 + index]
  if key ~= KEYS[1] and key ~= KEYS[2] then lanes[tostring(index)] = {key = key, asked = 0, held = {}, ended = {}} end
end
-- Reports stay where they are, in ARGV.
for at = 4, #ARGV, WIDTH do
  local lane, entry = lanes[ARGV[at]], ARGV[at + 1]
  if not lane then error('TAILRACE argument ' .. at .. ' names no stream') end
  local ms, number = match(entry, '^(%d+)%-(%d+)$')
  if not ms then error('TAILRACE entry is ' .. entry) end
  if not match(ARGV[at + 2], '^%d+$') then error('TAILRACE delivery is ' .. ARGV[at + 2]) end
  if ARGV[at + 3] ~= '0' and ARGV[at + 3] ~= '1' then error('TAILRACE final is ' .. ARGV[at + 3]) end
  -- (As exact as a number can be: an entry that it puts into a wrong place is asked about by itself.)
  local place = ms * 4096 + number
  if lane.asked == 0 or place < lane.lowest then lane.lowest, lane.first = place, entry end
  if lane.asked == 0 or place > lane.highest then lane.highest, lane.last = place, entry end
  lane.asked = lane.asked + 1
end

-- Whose entry it is, before anything is written: the delivery at which the caller has it, 'nobody', or false. Those of a
-- stream lie close together, so one look finds most of them; the others are looked for one by one.
for _, lane in pairs(lanes) do
  if lane.asked > 1 then
    local found = redis.pcall('XPENDING', lane.key, group, lane.first, lane.last, 2 * lane.asked, consumer)
    for _, pending in ipairs(found) do lane.held[pending[1]] = pending[4] end
  end
end
for at = 4, #ARGV, WIDTH do
  local lane, entry = lanes[ARGV[at]], ARGV[at + 1]
  if lane.held[entry] == nil then
    local found = redis.pcall('XPENDING', lane.key, group, entry, entry, 1)
    local pending = found[1]
    if pending then
      lane.held[entry] = pending[1] == entry and pending[2] == consumer and pending[4]
    else
      lane.held[entry] = not found.err and 'nobody'
    end
  end
end

-- From here on it is written. First what is removed: that also lifts the limit of full memory for the rest.

local answers, tasks = {}, {}
for at = 4, #ARGV, WIDTH do
  local lane, entry = lanes[ARGV[at]], ARGV[at + 1]
  local held = lane.held[entry]
  if held == tonumber(ARGV[at + 2]) then
    answers[#answers + 1] = 'ok'
    if ARGV[at + 3] == '1' then
      lane.held[entry] = false
      lane.ended[#lane.ended + 1] = entry
      tasks[#tasks + 1] = ARGV[at + 4]
    end
  else
    answers[#answers + 1] = 'lost'
    -- Who is told that the task is lost forgets it, and would not find at a renewal that nobody has it.
    if held == 'nobody' then give_up_acknowledged(lane.key, group, entry, consumer, KEYS[1], KEYS[2]) end
  end
end
for _, lane in pairs(lanes) do
  if #lane.ended > 0 then
    call('XACK', lane.key, group, unpack(lane.ended))
    call('XDEL', lane.key, unpack(lane.ended))
  end
end
if #tasks > 0 then call('HDEL', KEYS[2], unpack(tasks)) end
for index, answer in ipairs(answers) do
  if answer == 'ok' then
    local at = 4 + (index - 1) * WIDTH
    call('XADD', KEYS[1], '*', 'workflow', ARGV[at + 5], 'task', ARGV[at + 4], 'traceparent', ARGV[at + 6],
      'data', ARGV[at + 7])
  end
end
return answers
