-- include: wake
-- Pass the baton: wake min(ready messages, idle processes). KEYS[ready + level] are the lists.
local function baton(idle, prefix, levels, ready)
  local idlers = redis.call('ZCARD', idle)
  if idlers == 0 then
    return 0
  end
  local left = redis.call('LLEN', KEYS[ready])
  for _, level in ipairs(redis.call('SMEMBERS', levels)) do
    left = left + redis.call('LLEN', KEYS[ready + level])
  end
  return wake(idle, prefix, math.min(left, idlers))
end
