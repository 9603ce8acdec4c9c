-- How much of an agent's tasks waits and who holds the rest, at one moment: between two commands tasks come and go.
--
-- KEYS 1 cancels  2.. task streams   ARGV 1 group
-- Returns {never delivered, pending or -1 without a group, oldest entry or '', {acknowledged...}, {repeated...}, {oldest...},
-- told, {consumer, count}...} for each stream: workflows of entries that were acknowledged and are still in the stream, of
-- those that were delivered often, and of the oldest few; and how many are of closed tasks that their workers still hold.
--
-- What was delivered is counted by itself: an entry that was acknowledged or deleted behind our back is in one of stream and
-- pending list only, so the difference of their lengths would be wrong for ever.

local OFTEN, OLDEST, LOOKED_AT = 3, 10, 100

local answers = {}
local closed = #KEYS > 0 and redis.call('HLEN', KEYS[1]) > 0
for index = 2, #KEYS do
  local stream = KEYS[index]
  local length = redis.call('XLEN', stream)
  local answer = {length, -1, '', {}, {}, {}, 0}
  for place, entry in ipairs(redis.call('XRANGE', stream, '-', '+', 'COUNT', OLDEST)) do
    if place == 1 then answer[3] = entry[1] end
    answer[6][place] = value_of(entry[2], 'workflow')
  end
  local pending = redis.pcall('XPENDING', stream, ARGV[1])
  if not pending.err then
    local delivered = {}
    if length > 0 then delivered = redis.call('XRANGE', stream, '-', last_delivered(stream, ARGV[1])) end
    answer[1] = length - #delivered
    answer[2] = pending[1]
    if #delivered > pending[1] then
      local held = {}
      for _, row in ipairs(redis.call('XPENDING', stream, ARGV[1], '-', '+', math.max(1, pending[1]))) do held[row[1]] = true end
      for _, entry in ipairs(delivered) do
        local fields = entry[2]
        for at = 1, held[entry[1]] and 0 or #fields, 2 do
          if fields[at] == 'workflow' then answer[4][#answer[4] + 1] = fields[at + 1] end
        end
      end
    end
    if pending[1] > 0 then
      for _, row in ipairs(redis.call('XPENDING', stream, ARGV[1], '-', '+', LOOKED_AT)) do
        local entry = (closed or row[4] >= OFTEN) and redis.call('XRANGE', stream, row[1], row[1])[1]
        if entry then
          if row[4] >= OFTEN then answer[5][#answer[5] + 1] = value_of(entry[2], 'workflow') end
          if closed then answer[7] = answer[7] + redis.call('HEXISTS', KEYS[1], value_of(entry[2], 'task')) end
        end
      end
    end
    for _, consumer in ipairs(pending[4] or {}) do answer[#answer + 1] = consumer end
  end
  answers[index - 1] = answer
end
return answers
