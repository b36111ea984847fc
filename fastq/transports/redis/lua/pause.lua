-- Pause queues and task names, or resume them.
--
-- KEYS  1 paused, 2.. two per queue that is named: idle, leases
-- ARGV  1 '1': pause, '0': resume, 2 prefix of the wake channels, 3.. fields of paused
-- Returns  all of paused as it is now
--
-- A change gets a number above the last one, by the clock in us: after the last pause has been lifted the key is gone, and no two
-- pauses are so close that they get the same.
-- Nobody stays registered as idle on a paused queue: so no message that comes there wakes anybody. On resuming all that hold a lease
-- there are woken: those that find nothing register again. A process without a channel is gone, or subscribes before it fetches.
-- include: clock
local key, pausing = KEYS[1], ARGV[1] == '1'
local now = clock_us()
local number = math.max(now, tonumber(redis.call('HGET', key, '#') or 0) + 1)
for i = 2, #KEYS, 2 do
  redis.call('ZCARD', KEYS[i])
  redis.call('ZCARD', KEYS[i + 1])
end
for i = 3, #ARGV do
  if pausing then
    redis.call('HSETNX', key, ARGV[i], string.format('%.0f', math.floor(now / 1000)))
  else
    redis.call('HDEL', key, ARGV[i])
  end
end
local left = redis.call('HLEN', key) - redis.call('HEXISTS', key, '#')
if left > 0 then
  redis.call('HSET', key, '#', string.format('%.0f', number))
else
  redis.call('DEL', key)
end
for i = 2, #KEYS, 2 do
  if pausing then
    redis.call('DEL', KEYS[i])
  else
    for _, process in ipairs(redis.call('ZRANGEBYSCORE', KEYS[i + 1], '(0', '+inf')) do
      redis.call('PUBLISH', ARGV[2] .. process, 'w')
    end
  end
end
return redis.call('HGETALL', key)
