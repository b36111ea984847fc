-- Look for messages of some tasks in one step of a list of ready messages, or of the delayed ones. What is found is leased to the
-- sweeping process, which ends it.
--
-- KEYS  1 leased:<process>, 2 leases, 3 levels, 4 delayed or a ready list
-- ARGV  1 process, 2 number of this call: rises, 3 level of the list, '': delayed, 4 how many of the newest messages are passed over,
--       5 how many are looked at, 6 bytes of messages after which no further one is read, 7.. task ids
-- Returns  {how many were looked at, tags, messages} of the leased ones; -1 in place of the number: the process was condemned
--
-- The newest first, counted from the end at which messages come in: what workers take at the other end meanwhile moves nothing.
-- The message of an id: mark of two bytes or none, array, str8, length of the id, the id.
-- HDEL is the first write: it is allowed when Redis is out of memory. Messages are kept before they are removed where they were.
-- include: clock
local leased, leases, levels, source = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local first, most, bytes = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
if redis.call('ZSCORE', leases, ARGV[1]) == '0' then
  return {-1, {}, {}}
end
redis.call('HLEN', leased)
redis.call('SCARD', levels)
local delayed = ARGV[3] == ''
local wanted = {}
for i = 7, #ARGV do
  wanted[ARGV[i]] = true
end

local looked, size, tags, messages, fields, places = 0, 0, {}, {}, {}, {}
while looked < most and size < bytes do
  -- A few at once, so that large messages are not all read for the sake of their number.
  local from = first + looked
  local count = math.min(20, most - looked)
  local items
  if delayed then
    items = redis.call('ZREVRANGE', source, from, from + count - 1)
  else
    items = redis.call('LRANGE', source, -from - count, -from - 1)
  end
  for i, item in ipairs(items) do
    local level, message, place = ARGV[3], item, -from - #items - 1 + i
    if delayed then
      level = string.sub(item, 1, 1)
      message = string.sub(item, 3 + string.byte(item, 2))
      place = item
    end
    size = size + #message
    local at = string.byte(message, 1) == 193 and 2 or 0
    local length = string.byte(message, at + 3)
    if length and string.byte(message, at + 2) == 217 and wanted[string.sub(message, at + 4, at + 3 + length)] then
      tags[#tags + 1] = level .. ':' .. ARGV[2] .. ':' .. (#tags + 1)
      messages[#messages + 1] = message
      places[#places + 1] = place
      fields[#fields + 1] = tags[#tags]
      fields[#fields + 1] = message
    end
  end
  looked = looked + #items
  if #items < count then
    break
  end
end
if #tags == 0 then
  return {looked, tags, messages}
end

redis.call('HDEL', leased, '')
redis.call('ZADD', leases, clock(), ARGV[1])
for from = 1, #fields, 1000 do
  redis.call('HSET', leased, unpack(fields, from, math.min(from + 999, #fields)))
end
if delayed then
  for from = 1, #places, 1000 do
    redis.call('ZREM', source, unpack(places, from, math.min(from + 999, #places)))
  end
else
  -- No message is this: the process' name is random, and used once.
  local gone = ARGV[1] .. ':' .. ARGV[2]
  for _, place in ipairs(places) do
    redis.call('LSET', source, place, gone)
  end
  redis.call('LREM', source, -#places, gone)
  if ARGV[3] ~= '0' and redis.call('EXISTS', source) == 0 then
    redis.call('SREM', levels, ARGV[3])
  end
end
return {looked, tags, messages}
