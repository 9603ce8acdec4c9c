-- Take up to COUNT new tasks of one partition without waiting, urgent ones first.
--
-- KEYS 1 urgent stream  2 normal stream   ARGV 1 group  2 consumer  3 count
-- Returns {stream index, entry, fields}...
--
-- What was taken from one stream is given though the other one can't be read: a reply without it would lose it to a lease.

local free, taken = tonumber(ARGV[3] or ''), {}
if #KEYS ~= 2 or #ARGV ~= 3 or not (free and free >= 0 and free % 1 == 0) then error('TAILRACE wrong arguments') end
for _, key in ipairs(KEYS) do
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= 'stream' then error('TAILRACE key ' .. key .. ' is a ' .. found) end
end
for index, stream in ipairs(KEYS) do
  if free > 0 then
    local read = redis.pcall('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', free, 'STREAMS', stream, '>')
    if read and read.err then return #taken > 0 and taken or read end
    local entries = read and read[1] and read[1][2] or {}
    for _, entry in ipairs(entries) do
      taken[#taken + 1] = {index, entry[1], entry[2]}
      free = free - 1
    end
  end
end
return taken
