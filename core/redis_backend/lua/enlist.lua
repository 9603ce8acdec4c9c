-- The index of an agent's workers: name to last beat; forgets those that are long gone.
--
-- KEYS 1 workers   ARGV 1 name  2 at (us), '' to leave  3 forget before (us)

if #ARGV ~= 3 or not string.match(ARGV[2], '^%d*$') or not string.match(ARGV[3], '^%d+$') then
  error('TAILRACE wrong arguments')
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[3])
if ARGV[2] == '' then return redis.call('ZREM', KEYS[1], ARGV[1]) end
return redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
