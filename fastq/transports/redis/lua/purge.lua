-- Purge one step of a list of ready messages, or of the delayed ones. What cannot have a flow is dropped; what may have one is
-- leased to the purging process, which ends it.
--
-- KEYS  1 leased:<process>, 2 leases, 3 levels, 4 delayed or a ready list
-- ARGV  1 process, 2 number of this call: rises, 3 level of the list, '': delayed, 4 how many messages at most, 5 bytes of messages
--       after which no further one is read
-- Returns  {how many were taken, tags, messages} of the leased ones; -1 in place of the number: the process was condemned
--
-- The map of options is never compressed, so a message with a flow holds the MessagePack text "flow". HDEL is the first write: it is
-- allowed when Redis is out of memory. Leased messages are kept before they are removed where they were.
-- include: clock
local leased, leases, levels, source = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local most, bytes = tonumber(ARGV[4]), tonumber(ARGV[5])
if redis.call('ZSCORE', leases, ARGV[1]) == '0' then
  return {-1, {}, {}}
end
redis.call('HLEN', leased)
redis.call('SCARD', levels)
local delayed = ARGV[3] == ''

local taken, size, tags, messages, fields = 0, 0, {}, {}, {}
while taken < most and size < bytes do
  -- A few at once, so that large messages are not all read for the sake of their number.
  local items = redis.call(delayed and 'ZRANGE' or 'LRANGE', source, taken, math.min(taken + 9, most - 1))
  for _, item in ipairs(items) do
    local level, message = ARGV[3], item
    if delayed then
      level = string.sub(item, 1, 1)
      message = string.sub(item, 3 + string.byte(item, 2))
    end
    taken = taken + 1
    size = size + #message
    if string.find(message, '\164flow', 1, true) then
      tags[#tags + 1] = level .. ':' .. ARGV[2] .. ':' .. taken
      messages[#messages + 1] = message
      fields[#fields + 1] = tags[#tags]
      fields[#fields + 1] = message
    end
  end
  if #items < 10 then
    break
  end
end
if taken == 0 then
  return {0, {}, {}}
end

redis.call('HDEL', leased, '')
if #tags > 0 then
  redis.call('ZADD', leases, clock(), ARGV[1])
  for from = 1, #fields, 1000 do
    redis.call('HSET', leased, unpack(fields, from, math.min(from + 999, #fields)))
  end
end
if delayed then
  redis.call('ZREMRANGEBYRANK', source, 0, taken - 1)
else
  redis.call('LTRIM', source, taken, -1)
  if ARGV[3] ~= '0' and redis.call('EXISTS', source) == 0 then
    redis.call('SREM', levels, ARGV[3])
  end
end
return {taken, tags, messages}
