-- include: unbury
-- Keep a dead letter: "<died at (ms)>:<level>:<length of head>:" head message. The tag ends `name` and begins with the level.
-- Its score is `now_us` plus its place in the batch, so that the order of those that die together is kept.
local function bury(dead, messages, name, head, message, now_us, place)
  local level = string.match(name, '(%d):%d+:%d+$') or '0'
  name = letter_name(name, head)
  redis.call('HSET', messages, name, string.format('%.0f:%s:%d:', math.floor(now_us / 1000), level, #head) .. head .. message)
  redis.call('ZADD', dead, string.format('%.0f', now_us + place), name)
end
