-- Put dead letters back at the tail of the level they came from, as new messages.
--
-- KEYS  1 dead, 2 dead:messages, 3 idle, 4 levels, 5 to 14 ready lists of levels 0 to 9
-- ARGV  1 prefix of the wake channels, 2.. dead letters
-- Returns  how many were put back
--
-- HDEL, the first write, is allowed when Redis is out of memory: a dead letter is not lost between the two places.
-- include: baton
local dead, messages, idle, levels, READY = KEYS[1], KEYS[2], KEYS[3], KEYS[4], 5
local records = redis.call('HMGET', messages, unpack(ARGV, 2))
redis.call('ZCARD', dead)
for level = 0, 9 do
  redis.call('LLEN', KEYS[READY + level])
end
redis.call('HDEL', messages, unpack(ARGV, 2))
redis.call('ZREM', dead, unpack(ARGV, 2))
local moved = 0
for _, record in ipairs(records) do
  if record then
    local level, size, head = string.match(record, '^%d+:(%d):(%d+):()')
    local message = string.sub(record, head + tonumber(size))
    if string.byte(message, 1) == 193 then
      -- The redelivery mark: what it counted is forgiven.
      message = string.sub(message, 3)
    end
    redis.call('RPUSH', KEYS[READY + tonumber(level)], message)
    if level ~= '0' then
      redis.call('SADD', levels, level)
    end
    moved = moved + 1
  end
end
baton(idle, ARGV[1], levels, READY)
return moved
