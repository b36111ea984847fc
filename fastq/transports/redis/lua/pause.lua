-- Pause queues and task names, or resume them.
--
-- KEYS  1 paused, 2.. two per queue that is named: idle, leases
-- ARGV  1 '1': pause, '0': resume, 2 prefix of the wake channels, 3.. fields of paused: q:<queue>, t:<task name>, and when resuming
--       p:<queue> where something may be parked of which paused does not know
-- Returns  all of paused as it is now
--
-- A change gets a number above the last one, by the clock in us: after the last pause has been lifted the key is gone, and no two
-- pauses are so close that they get the same.
-- Nobody stays registered as idle on a paused queue: so no message that comes there wakes anybody. On resuming all that hold a lease
-- there are woken: those that find nothing register again. A process without a channel is gone, or subscribes before it fetches.
-- Resuming a task name says in the same step that it is resuming, and holds the queues where something is parked: of a queue that is
-- held (field h:<queue>: where its next step begins) nothing is taken until unpark has put everything back. So it does not matter who
-- calls that, and nothing younger gets ahead.
-- include: clock
local key, pausing = KEYS[1], ARGV[1] == '1'
local now = clock_us()
local number = math.max(now, tonumber(redis.call('HGET', key, '#') or 0) + 1)
for i = 2, #KEYS, 2 do
  redis.call('ZCARD', KEYS[i])
  redis.call('ZCARD', KEYS[i + 1])
end
local since, resumed = string.format('%.0f', math.floor(now / 1000)), {}
for i = 3, #ARGV do
  local kind, name = string.sub(ARGV[i], 1, 2), string.sub(ARGV[i], 3)
  if pausing then
    redis.call('HSETNX', key, ARGV[i], since)
    if kind == 't:' then
      redis.call('HDEL', key, 'r:' .. name)
    end
  elseif kind == 'p:' then
    redis.call('HSET', key, ARGV[i], 1)
  else
    redis.call('HDEL', key, ARGV[i])
    resumed[#resumed + 1] = kind == 't:' and name or nil
  end
end
if #resumed > 0 then
  local held = false
  for _, field in ipairs(redis.call('HKEYS', key)) do
    if string.sub(field, 1, 2) == 'p:' then
      redis.call('HSET', key, 'h:' .. string.sub(field, 3), '+inf')
      held = true
    end
  end
  for _, name in ipairs(held and resumed or {}) do
    redis.call('HSET', key, 'r:' .. name, since)
  end
end
local left = false
for _, field in ipairs(redis.call('HKEYS', key)) do
  local kind = string.sub(field, 1, 2)
  left = left or (kind ~= 'p:' and field ~= '#')
end
if left then
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
