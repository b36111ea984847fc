-- Put dead letters back at the tail of the level they came from, as new messages.
--
-- KEYS  1 dead, 2 dead:messages, then of the queue they go to: 3 idle, 4 levels, 5 to 14 ready lists of levels 0 to 9;
--       15.. one key per result to be forgotten
-- ARGV  1 prefix of the wake channels, 2 how many dead letters, then per letter: name, message to be put back ('': its own),
--       then per result: which letter it belongs to (from 1), 'h' (hash) or 's' (string), task id
-- Returns  how many were put back
--
-- A result is forgotten if it says FAILURE. A body's join is its own again: it does not expire. Everything is read and taken apart
-- first. HDEL, the first write, is allowed when Redis is out of memory: a dead letter is not lost between the two places.
-- include: baton
-- include: unbury
local dead, messages, idle, levels, READY = KEYS[1], KEYS[2], KEYS[3], KEYS[4], 5
local FAILURE = '\150\167FAILURE'
local count = tonumber(ARGV[2])
local names, there = {}, {}
for i = 1, count do
  names[i] = ARGV[2 * i + 1]
end
local records = redis.call('HMGET', messages, unpack(names))
redis.call('ZCARD', dead)
redis.call('SCARD', levels)
for level = 0, 9 do
  redis.call('LLEN', KEYS[READY + level])
end
local found = {}
for i = 1, count do
  local record = records[i]
  local level, size, head
  if record then
    level, size, head = string.match(record, '^%d+:(%d):(%d+):()')
  end
  if level then
    local message = ARGV[2 * i + 2]
    if message == '' then
      message = string.sub(record, head + tonumber(size))
    end
    if string.byte(message, 1) == 193 then
      -- The redelivery mark: what it counted is forgiven.
      message = string.sub(message, 3)
    end
    there[i] = {level, message, kept_join(names[i], record)}
    found[#found + 1] = names[i]
  end
end
if #found == 0 then
  return 0
end
local forgotten = {}
for i = 15, #KEYS do
  local at = 3 + 2 * count + 3 * (i - 15)
  if there[tonumber(ARGV[at])] then
    local value
    if ARGV[at + 1] == 'h' then
      value = redis.call('HGET', KEYS[i], ARGV[at + 2])
    else
      value = redis.call('GET', KEYS[i])
    end
    if value and string.sub(value, 1, #FAILURE) == FAILURE then
      forgotten[#forgotten + 1] = {ARGV[at + 1], KEYS[i], ARGV[at + 2]}
    end
  end
end

redis.call('HDEL', messages, unpack(found))
redis.call('ZREM', dead, unpack(found))
for i = 1, count do
  if there[i] then
    local level, message, join = unpack(there[i])
    redis.call('RPUSH', KEYS[READY + tonumber(level)], message)
    if level ~= '0' then
      redis.call('SADD', levels, level)
    end
    if join then
      redis.call('PERSIST', join)
    end
  end
end
for _, one in ipairs(forgotten) do
  if one[1] == 'h' then
    redis.call('HDEL', one[2], one[3])
  else
    redis.call('DEL', one[2])
  end
end
baton(idle, ARGV[1], levels, READY)
return #found
