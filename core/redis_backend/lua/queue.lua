-- How much of an agent's tasks waits and who holds the rest, at one moment: between two commands tasks come and go.
--
-- KEYS 1.. task streams   ARGV 1 group
-- Returns {never delivered, pending or -1 without a group, oldest entry or '', {workflow...}, {consumer, count}...} for
-- each stream; the workflows are those of entries that were acknowledged and are still in the stream.
--
-- What was delivered is counted by itself: an entry that was acknowledged or deleted behind our back is in one of stream and
-- pending list only, so the difference of their lengths would be wrong for ever.

local answers = {}
for index, stream in ipairs(KEYS) do
  local length = redis.call('XLEN', stream)
  local answer = {length, -1, '', {}}
  local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if oldest then answer[3] = oldest[1] end
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
    for _, consumer in ipairs(pending[4] or {}) do answer[#answer + 1] = consumer end
  end
  answers[index] = answer
end
return answers
