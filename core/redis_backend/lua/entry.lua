-- Where the entry of an open task is, at one moment: between two commands it may be taken, or reported on.
--
-- KEYS 1 task stream   ARGV 1 group  2 entry
-- Returns {'gone'}, {'delivered', consumer, idle (ms), deliveries}, {'acknowledged'} or {'queued', last delivered entry}.

if #KEYS ~= 1 or #ARGV ~= 2 then error('TAILRACE ' .. #KEYS .. ' keys, ' .. #ARGV .. ' arguments') end
local stream, group, entry = KEYS[1], ARGV[1], ARGV[2]
if #redis.call('XRANGE', stream, entry, entry) == 0 then return {'gone'} end
local pending = redis.pcall('XPENDING', stream, group, entry, entry, 1)
if pending.err then return {'queued', '0-0'} end
if #pending > 0 then return {'delivered', pending[1][2], pending[1][3], pending[1][4]} end
local last = last_delivered(stream, group)
if is_after(entry, last) then return {'queued', last} end
return {'acknowledged'}
