-- Move a run's expectation, if the run is still at the version that was looked at.
--
-- KEYS 1 workflow  2 expect   ARGV 1 workflow id  2 version  3 expect at (us)

if redis.call('HGET', KEYS[1], 'v') ~= ARGV[2] or not redis.call('ZSCORE', KEYS[2], ARGV[1]) then return 0 end
redis.call('ZADD', KEYS[2], 'XX', ARGV[3], ARGV[1])
return 1
