-- Make a group at the beginning of its stream, unless it is there.
--
-- KEYS 1 stream   ARGV 1 group
-- Returns 1 when it was made.

if #ARGV ~= 1 then error('TAILRACE ' .. #ARGV .. ' arguments') end
-- Removing something, even nothing, lets the write behind it pass at full memory: a worker may start then, too.
redis.call('XDEL', KEYS[1], '0-0')
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
if not made.err then return 1 end
if string.find(made.err, 'BUSYGROUP', 1, true) then return 0 end
return made
