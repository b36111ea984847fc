-- Keep a dead letter: "<died at (ms)>:<level>:<length of head>:" head message. The tag ends `name` and begins with the level.
-- Its score is `now_us` plus its place in the batch, so that the order of those that die together is kept.
local function bury(dead, messages, name, head, message, now_us, place)
  local level = string.match(name, '(%d):%d+:%d+$') or '0'
  redis.call('HSET', messages, name, string.format('%.0f:%s:%d:', math.floor(now_us / 1000), level, #head) .. head .. message)
  redis.call('ZADD', dead, string.format('%.0f', now_us + place), name)
end

-- Drop expired dead letters and those over the cap, oldest first, about as many as were added plus 100. Both keys expire with the youngest.
local function trim(dead, messages, now, most, keep_s, added)
  local old = redis.call('ZRANGEBYSCORE', dead, '-inf', string.format('%.0f', (now - keep_s * 1000) * 1000), 'LIMIT', 0, added + 100)
  if #old == 0 then
    local over = redis.call('ZCARD', dead) - most
    if over > 0 then
      old = redis.call('ZRANGE', dead, 0, math.min(over, added + 100) - 1)
    end
  end
  for from = 1, #old, 1000 do
    redis.call('HDEL', messages, unpack(old, from, math.min(from + 999, #old)))
    redis.call('ZREM', dead, unpack(old, from, math.min(from + 999, #old)))
  end
  redis.call('EXPIRE', dead, keep_s)
  redis.call('EXPIRE', messages, keep_s)
end
