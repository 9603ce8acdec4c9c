-- How much of an agent's tasks waits and who holds the rest, at one moment: between two commands tasks come and go.
--
-- KEYS 1.. task streams   ARGV 1 group
-- Returns {length, pending or -1 without a group, oldest entry or '', {consumer, count}...} for each stream.

local answers = {}
for index, stream in ipairs(KEYS) do
  local answer = {redis.call('XLEN', stream), -1, ''}
  local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if oldest then answer[3] = oldest[1] end
  local pending = redis.pcall('XPENDING', stream, ARGV[1])
  if not pending.err then
    answer[2] = pending[1]
    for _, consumer in ipairs(pending[4] or {}) do answer[#answer + 1] = consumer end
  end
  answers[index] = answer
end
return answers
