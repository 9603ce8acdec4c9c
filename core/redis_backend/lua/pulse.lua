-- Shared by the scripts that poll: put in front of them, not run by itself.
--
-- A lease, a timer and an expectation run only while the store runs. Who polls writes the pulse; a poll that finds it too old,
-- or in the future, shows that the store was away, and gives everybody one lease of grace.

local function poll(key, now, lease, late)
  local pulse = redis.call('HMGET', key, 'at', 'grace_until')
  local at, grace = tonumber(pulse[1] or ''), tonumber(pulse[2] or '0')
  -- Many poll; it is enough that the pulse is never older than a part of what counts as late. A write is a sync to disk.
  if not at or now - at > late / 4 or at > now then
    -- Removing something, even nothing, lets the writes behind it pass at full memory.
    redis.call('HDEL', key, '')
    if at and (now - at > late or at > now) then
      grace = now + lease
      redis.call('HSET', key, 'grace_until', grace)
    end
    redis.call('HSET', key, 'at', now)
  end
  return grace
end

