-- Make a namespace, once: later callers get what the first one wrote.
--
-- KEYS 1 meta   ARGV 1 partitions  2 schema version  3 instance id
-- Returns {partitions, schema version, instance id}.

if #ARGV ~= 3 or not (string.match(ARGV[1], '^[1-9]%d*$') and string.match(ARGV[2], '^%d+$')) then error('TAILRACE wrong arguments') end
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'partitions', ARGV[1], 'schema', ARGV[2], 'instance', ARGV[3])
end
return redis.call('HMGET', KEYS[1], 'partitions', 'schema', 'instance')
