-- Move a run's expectation, if the run is still at the version that was looked at.
--
-- KEYS 1 workflow  2 expect   ARGV 1 workflow id  2 version  3 expect at (us)

local expect_at = tonumber(ARGV[3] or '')
if #ARGV ~= 3 or not (expect_at and expect_at >= 0 and expect_at <= 2 ^ 53) then error('TAILRACE wrong arguments') end
if redis.call('HGET', KEYS[1], 'v') ~= ARGV[2] or not redis.call('ZSCORE', KEYS[2], ARGV[1]) then return 0 end
redis.call('ZADD', KEYS[2], 'XX', expect_at, ARGV[1])
return 1
