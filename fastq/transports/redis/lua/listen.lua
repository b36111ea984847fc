-- Note that somebody listens to events, or does not any more.
--
-- KEYS  1 listeners
-- ARGV  1 the listener, 2 for how long (ms), 0: not any more
-- Returns  nothing
-- include: clock
local key, name, expires = KEYS[1], ARGV[1], tonumber(ARGV[2])
local now = clock()
redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now))
if expires <= 0 then
  redis.call('ZREM', key, name)
  return
end
redis.call('ZADD', key, string.format('%.0f', now + expires), name)
if redis.call('PTTL', key) < expires then
  redis.call('PEXPIRE', key, expires)
end
