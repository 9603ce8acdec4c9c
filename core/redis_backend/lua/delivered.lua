-- Shared by scripts that tell what was never delivered from what was delivered and is nobody's any more.

local function is_after(entry, other)
  local ms, number = string.match(entry, '^(%d+)-(%d+)$')
  local other_ms, other_number = string.match(other, '^(%d+)-(%d+)$')
  if ms ~= other_ms then return tonumber(ms) > tonumber(other_ms) end
  return tonumber(number) > tonumber(other_number)
end

-- Up to which entry a group was given its stream; nothing for a group that is not there.
local function last_delivered(stream, group)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if groups.err then return '0-0' end
  for _, found in ipairs(groups) do
    local name, last
    for index = 1, #found, 2 do
      if found[index] == 'name' then name = found[index + 1] end
      if found[index] == 'last-delivered-id' then last = found[index + 1] end
    end
    if name == group then return last end
  end
  return '0-0'
end

