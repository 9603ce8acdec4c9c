-- Take up to COUNT new tasks of one partition without waiting, urgent ones first.
--
-- KEYS 1 urgent stream  2 normal stream   ARGV 1 group  2 consumer  3 count
-- Returns {stream index, entry, fields}...

local free, taken = tonumber(ARGV[3]), {}
for index, stream in ipairs(KEYS) do
  if free > 0 then
    local read = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', free, 'STREAMS', stream, '>')
    if read then
      local entries = read[1] and read[1][2] or {}
      for _, entry in ipairs(entries) do
        taken[#taken + 1] = {index, entry[1], entry[2]}
        free = free - 1
      end
    end
  end
end
return taken
